// Approval policies, as docs/wire.md, "Audit files", says them. What it leaves to the specification (`ordered`,
// `wait`, `auto`, roles of organisations) is said to be not evaluated, and never counted as satisfied.
import { Refused } from './refused.js'

const STEPS_MAX = 100000

const NOTHING = {
  role: null, key: null, all: [], any: [], weigh: [], auto: null, count: 1, ordered: false, exclude: [], expires_s: 0, wait_s: 0, veto: []
}

/** A rule with the fields that were left out because they have their defaults. */
export function whole (rule) {
  const made = { ...NOTHING, ...rule }
  const entry = (it) => ({ role: null, key: null, ...it })
  return { ...made, all: made.all.map(whole), any: made.any.map(whole), weigh: made.weigh.map(entry) }
}

/** Why this program does not evaluate a rule; undefined when it does. */
function beyond (rule) {
  if (rule.auto !== null) return 'auto'
  if (rule.ordered) return 'ordered'
  if (rule.wait_s !== 0) return 'wait'
  for (const child of [...rule.all, ...rule.any]) {
    const found = beyond(child)
    if (found !== undefined) return found
  }
}

/** All subsets of `size` of the items, one after the other. */
function * choose (items, size, from = 0) {
  if (size === 0) yield []
  else for (let i = from; i <= items.length - size; i++) for (const rest of choose(items, size - 1, i + 1)) yield [items[i], ...rest]
}

class Evaluation {
  constructor (policies, roles, author, consumer, approvals, atMs) {
    const standing = approvals.filter((a) => a.decision === 'granted' && a.timeMs <= atMs &&
      atMs < (a.expiresMs || a.timeMs + policies.validity_s * 1000))
    this.rejected = approvals.filter((a) => a.decision === 'rejected' && a.timeMs <= atMs)
    this.excluded = [policies.author_may_approve ? null : author, policies.consumer_may_approve ? null : consumer]
    Object.assign(this, { standing, roles, author, consumer, atMs, steps: 0 })
  }

  holds (role, signer) {
    return (this.roles.get(role) ?? []).includes(signer)
  }

  /** In this role, or, of an update, in one that its signer does not hold here, but this one is held. */
  signedIn (approval, role) {
    const isHere = approval.role === role || (approval.update > 0 && !this.holds(approval.role, approval.signer))
    return isHere && this.holds(role, approval.signer)
  }

  /** Every way in which a rule is met with approvals that are not in `used`, each as the `used` after it. */
  * ways (rule, used, above) {
    if (++this.steps > STEPS_MAX) throw new Refused('policy.too_large', `${STEPS_MAX} steps`)
    const exclude = [...above.exclude, ...rule.exclude]
    const expiresS = Math.min(above.expiresS, rule.expires_s || Infinity)
    if (rule.veto.some((role) => this.rejected.some((a) => this.holds(role, a.signer)))) return
    const below = { exclude, expiresS }
    const free = this.standing.filter((a) => !used.has(a.signer) && !this.isOut(a.signer, exclude) &&
      this.atMs < a.timeMs + expiresS * 1000)
    if (rule.role !== null) {
      const mine = free.filter((a) => this.signedIn(a, rule.role))
      for (const chosen of choose(mine, rule.count)) yield new Set([...used, ...chosen.map((a) => a.signer)])
    } else if (rule.key !== null) {
      if (free.some((a) => a.signer === rule.key)) yield new Set([...used, rule.key])
    } else if (rule.weigh.length > 0) {
      yield * this.weighed(rule, free, used)
    } else if (rule.all.length > 0) {
      yield * this.together(rule.all, used, below)
    } else {
      for (const chosen of choose(rule.any, rule.count)) yield * this.together(chosen, used, below)
    }
  }

  * together (rules, used, below) {
    if (rules.length === 0) yield used
    else for (const after of this.ways(rules[0], used, below)) yield * this.together(rules.slice(1), after, below)
  }

  * weighed (rule, free, used) {
    const weight = (a) => Math.max(0, ...rule.weigh.filter((it) => it.key !== null
      ? it.key === a.signer
      : this.signedIn(a, it.role)).map((it) => it.weight))
    const heavy = free.filter((a) => weight(a) > 0)
    for (let size = 0; size <= heavy.length; size++) {
      for (const chosen of choose(heavy, size)) {
        if (++this.steps > STEPS_MAX) throw new Refused('policy.too_large', `${STEPS_MAX} steps`)
        const total = chosen.reduce((sum, a) => sum + weight(a), 0)
        if (total >= rule.count) yield new Set([...used, ...chosen.map((a) => a.signer)])
      }
    }
  }

  isOut (signer, exclude) {
    return this.excluded.includes(signer) || exclude.some((who) => who === 'author'
      ? signer === this.author
      : who === 'consumer' ? signer === this.consumer : who === `key:${signer}` || (who.startsWith('role:') && this.holds(who.slice(5), signer)))
  }
}

/** The rule of an act; an update without one asks for what the deployment did. */
export function ruleOf (policies, act) {
  const rule = policies[act] ?? null
  return rule === 'as_deploy' ? policies.deploy ?? null : rule
}

/**
 * 'none' (the act asks for nothing), 'satisfied', 'open', or 'not evaluated: …'. `approvals`: the last of each
 * signer for the act, { signer, role, decision, timeMs, expiresMs }; keys in hex; `roles`: name -> keys.
 */
export function judge (policies, act, roles, author, consumer, approvals, atMs) {
  const rule = ruleOf(policies, act)
  if (rule === null) return 'none'
  const asked = whole(rule)
  const unread = beyond(asked)
  if (unread !== undefined) return `not evaluated: ${unread}`
  const evaluation = new Evaluation(policies, roles, author, consumer, approvals, atMs)
  const way = evaluation.ways(asked, new Set(), { exclude: [], expiresS: Infinity }).next()
  return way.done ? 'open' : 'satisfied'
}
