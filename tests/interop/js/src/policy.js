// Approval policies: docs/spec.md, section 3, rules G1 to G10. Signers are matched to places by augmenting paths; what is
// chosen (`any`, `weigh`) is searched. Keys in hex, times in ms.
import { Refused } from './refused.js'

const STEPS_MAX = 200000 // no policy of a sensible size comes near
export const ACTS = ['deploy', 'signoff', 'delete', 'update', 'release']

const NOTHING = {
  role: null, key: null, all: [], any: [], weigh: [], auto: null, count: 1, ordered: false, exclude: [], expires_s: 0, wait_s: 0, veto: []
}

/** A rule with the fields that were left out because they have their defaults. */
function whole (rule) {
  const made = { ...NOTHING, ...rule }
  const entry = (it) => ({ role: null, key: null, ...it })
  return { ...made, all: made.all.map(whole), any: made.any.map(whole), weigh: made.weigh.map(entry) }
}

/** The rule of an act; null: it asks for nothing. An update without one asks for what the deployment did. */
export function ruleOf (policies, act) {
  const rule = policies[act] ?? null
  const found = rule === 'as_deploy' ? policies.deploy ?? null : rule
  return found === null ? null : whole(found)
}

/** Keys that a rule names without a role. */
export function namedKeys (rule) {
  if (rule === null) return []
  const mine = [rule.key, ...rule.weigh.map((entry) => entry.key)].filter((key) => key !== null)
  return [...mine, ...[...rule.all, ...rule.any].flatMap(namedKeys)]
}

/** One rule over the approvals of one moment. `ever`: what they could come to in time, without order, wait, expiry. */
class Plan {
  constructor (rule, roles, grants, against, about, nowMs, people, ever = false) {
    Object.assign(this, { roles, grants, against, about, nowMs, people, ever, asks: [], turns: [], steps: 0 })
    this.root = this.node(rule, { exclude: new Set(), afterMs: null, waitMs: 0, expiresMs: 0 })
  }

  // ------------------------------------------------------------------ from a rule to what it asks for

  node (rule, above) {
    const expires = [rule.expires_s * 1000, above.expiresMs].filter((ms) => ms !== 0)
    const scope = {
      exclude: new Set([...above.exclude, ...this.excluded(rule.exclude)]),
      afterMs: above.afterMs,
      waitMs: above.waitMs + rule.wait_s * 1000,
      expiresMs: expires.length > 0 ? Math.min(...expires) : 0
    }
    if (rule.veto.some((role) => this.against.has(role))) return { form: 'fixed', holds: false }
    if (rule.role !== null) return { form: 'leaf', ask: this.ask(`role ${rule.role}`, scope), need: rule.count }
    if (rule.key !== null) return { form: 'leaf', ask: this.ask(`key ${rule.key}`, scope), need: 1 }
    if (rule.auto !== null) return { form: 'fixed', holds: this.isAutomatic(rule.auto, scope) }
    if (rule.weigh.length > 0) {
      const entries = rule.weigh.map(({ role, key, weight }) => ({ weight, ask: this.ask(role !== null ? `role ${role}` : `key ${key}`, scope) }))
      return { form: 'weigh', need: rule.count, entries: entries.sort((a, b) => b.weight - a.weight) }
    }
    if (rule.any.length > 0) return { form: 'any', need: rule.count, children: rule.any.map((child) => this.node(child, scope)) }
    const children = rule.ordered && !this.ever ? this.inOrder(rule.all, scope) : rule.all.map((child) => this.node(child, scope))
    return { form: 'all', children }
  }

  /** [G5] Each after those before it were met. */
  inOrder (rules, scope) {
    const done = []
    for (const rule of rules) {
      if (done.length > 0) {
        const metMs = this.firstMet({ form: 'all', children: [...done] })
        if (metMs === null) return [...done, { form: 'fixed', holds: false }]
        scope = { ...scope, afterMs: Math.max(metMs, scope.afterMs ?? metMs) }
      }
      done.push(this.node(rule, scope))
    }
    return done
  }

  firstMet (node) {
    const waits = new Set([0, ...this.asks.map(({ waitMs }) => waitMs)])
    const moments = new Set([...this.grants.values()].flatMap(({ sinceMs }) => [...waits].map((ms) => sinceMs + ms)))
    const times = [...moments].filter((ms) => ms <= this.nowMs).sort((a, b) => a - b)
    return times.find((ms) => this.isMet(node, ms)) ?? null
  }

  ask (name, { exclude, ...times }) {
    const { afterMs, waitMs, expiresMs } = this.ever ? { afterMs: null, waitMs: 0, expiresMs: 0 } : times
    const ready = []
    for (const [signer, grant] of this.grants) {
      const isIn = grant.names.has(name) && !exclude.has(signer) && (afterMs === null || grant.sinceMs > afterMs) &&
        (expiresMs === 0 || grant.timeMs + expiresMs > this.nowMs)
      if (isIn) ready.push([grant.sinceMs + waitMs, signer, expiresMs === 0 ? 0 : grant.timeMs + expiresMs])
    }
    this.asks.push({ waitMs, ready })
    return this.asks.length - 1
  }

  /** [G8] */
  isAutomatic (auto, { waitMs }) {
    const { budget, orderedMs, precedentMs } = this.about
    if (auto.budget !== undefined && auto.budget !== null && budget > auto.budget) return false
    const within = auto.approved_within_s ?? null
    if (within !== null && (precedentMs === 0 || orderedMs - precedentMs > within * 1000)) return false
    if (!this.ever && waitMs !== 0) this.turns.push(orderedMs + waitMs)
    return this.ever || orderedMs + waitMs <= this.nowMs
  }

  excluded (words) {
    const keys = words.flatMap((word) => {
      if (word.startsWith('role:')) return (this.roles.get(word.slice(5)) ?? []).map((key) => this.people.one(key))
      return word.startsWith('key:') ? [word.slice(4)] : [word === 'author' ? this.about.author : this.about.consumer]
    })
    return this.people.keptOut(keys)
  }

  // ------------------------------------------------------------------ the search

  isMet (node, atMs) {
    const signers = this.asks.map(({ ready }) => ready.filter(([ms]) => ms <= atMs).map(([, signer]) => signer))
    return this.solve([node], new Map(), signers) !== null
  }

  step () {
    if (++this.steps > STEPS_MAX) throw new Refused('policy.too_large', `${STEPS_MAX} steps`)
  }

  /** One more place of an ask: changes `filled` (signer -> ask), moving others where that makes room. */
  place (ask, filled, signers, seen = new Set()) {
    for (const signer of signers[ask]) {
      if (seen.has(signer)) continue
      this.step()
      seen.add(signer)
      if (!filled.has(signer) || this.place(filled.get(signer), filled, signers, seen)) {
        filled.set(signer, ask)
        return true
      }
    }
    return false
  }

  /** All goals filled, as the new `filled`; null when that cannot be. */
  solve (goals, filled, signers) {
    const now = new Map(filled)
    const choices = []
    const weights = []
    const pending = [...goals]
    while (pending.length > 0) {
      const goal = pending.shift()
      if (goal.form === 'all') pending.unshift(...goal.children)
      else if (goal.form === 'any') choices.push(goal)
      else if (goal.form === 'weigh') weights.push(goal)
      else if (goal.form === 'fixed') { if (!goal.holds) return null } else {
        for (let n = 0; n < goal.need; n++) if (!this.place(goal.ask, now, signers)) return null
      }
    }
    const [first, ...rest] = [...choices, ...weights]
    if (first === undefined) return now
    return first.form === 'any' ? this.choose(first, rest, now, signers) : this.weigh(first, rest, now, signers)
  }

  choose ({ children, need }, rest, filled, signers) {
    if (need <= 0) return this.solve(rest, filled, signers)
    if (this.most(children, filled, signers) < need) return null
    const failed = new Set() // an equal sibling can do no better
    for (let i = 0; i + need <= children.length; i++) {
      const same = JSON.stringify(children[i], (name, it) => (name === 'ask' ? signers[it] : it))
      if (failed.has(same)) continue
      this.step()
      const left = need > 1 ? [{ form: 'any', children: children.slice(i + 1), need: need - 1 }] : []
      const done = this.solve([children[i], ...left, ...rest], filled, signers)
      if (done !== null) return done
      failed.add(same)
    }
    return null
  }

  /** At most so many of the children can be filled together. */
  most (children, filled, signers) {
    const together = new Map(filled)
    return children.filter((child) => (child.form === 'leaf' && child.need === 1
      ? this.place(child.ask, together, signers)
      : this.solve([child], filled, signers) !== null)).length
  }

  weigh ({ entries, need }, rest, filled, signers) {
    if (need <= 0) return this.solve(rest, filled, signers)
    const greedy = new Map(filled) // the heaviest first: what can be filled together is a matroid
    let total = 0
    for (const { ask, weight } of entries) while (total < need && this.place(ask, greedy, signers)) total += weight
    if (total < need) return null
    if (rest.length === 0) return greedy
    const [first, ...others] = entries
    const ladder = [filled]
    while ((ladder.length - 1) * first.weight < need) {
      const next = new Map(ladder.at(-1))
      if (!this.place(first.ask, next, signers)) break
      ladder.push(next)
    }
    for (let taken = ladder.length - 1; taken >= 0; taken--) {
      this.step()
      const left = { form: 'weigh', entries: others, need: need - taken * first.weight }
      const done = this.weigh(left, rest, ladder[taken], signers)
      if (done !== null) return done
    }
    return null
  }

  /** When a wait or an expiry of the policy's own is over next; 0: none to come. */
  nextMs () {
    const times = [...this.turns, ...this.asks.flatMap(({ ready }) => ready.flatMap(([fromMs, , untilMs]) => [fromMs, untilMs]))]
    return Math.min(...times.filter((ms) => ms > this.nowMs), Infinity)
  }
}

/** [G10] The last decision of each person. */
export function latest (approvals, people) {
  const last = new Map()
  for (const approval of approvals) {
    const one = people.one(approval.signer)
    const held = last.get(one)
    const isLater = held === undefined || approval.timeMs > held.timeMs || (approval.timeMs === held.timeMs && approval.number >= held.number)
    if (isLater) last.set(one, approval)
  }
  return last
}

/**
 * What a rule of an act says of these approvals: { satisfied, rejected, nextMs }. An approval: { signer, roles,
 * decision, timeMs, expiresMs (0: never), sinceMs, number }; `about`: { author, consumer, budget, orderedMs, precedentMs }.
 */
function evaluate (rule, roll, approvals, nowMs, excluded, about) {
  const { people, roles } = roll
  const out = people.keptOut(excluded)
  const names = new Map() // by key
  const note = (key, name) => names.set(key, new Set([...(names.get(key) ?? []), name]))
  for (const [role, keys] of roles) for (const key of keys) note(key, `role ${role}`)
  for (const key of namedKeys(rule)) note(key, `key ${key}`)
  const holders = new Map() // by person
  for (const [key, mine] of names) {
    const one = people.one(key)
    if (!out.has(one)) holders.set(one, { names: new Set([...(holders.get(one)?.names ?? []), ...mine]), sinceMs: 0, timeMs: 0 })
  }
  const [granted, rejecting] = [new Map(), new Map()]
  for (const [one, approval] of latest(approvals, people)) {
    const given = holders.has(one) ? names.get(approval.signer) ?? new Set() : new Set()
    const mine = [...given].filter((name) => name.startsWith('key ') || approval.roles.includes(name.slice(5)))
    if (mine.length === 0) continue
    const { decision, expiresMs, sinceMs, timeMs } = approval
    if (decision === 'rejected') rejecting.set(one, mine.filter((name) => name.startsWith('role ')).map((name) => name.slice(5)))
    if (decision === 'granted' && (expiresMs === 0 || expiresMs > nowMs)) granted.set(one, { names: new Set(mine), sinceMs: sinceMs || timeMs, timeMs })
  }
  const against = new Set([...rejecting.values()].flat())
  const plan = new Plan(rule, roles, granted, against, about, nowMs, people)
  const satisfied = plan.isMet(plan.root, nowMs)
  let rejected = false
  if (!satisfied && rejecting.size > 0) {
    const others = new Map([...holders].filter(([one]) => !rejecting.has(one)))
    const ever = new Plan(rule, roles, others, against, about, nowMs, people, true)
    rejected = !ever.isMet(ever.root, 0)
  }
  return { satisfied, rejected, nextMs: plan.nextMs() }
}

/** The decision of an act's policy, with those left out whom the policies exclude and, of members of organisations, what
 * they signed as what they are still ([G9]). */
export function judge (policies, act, roll, approvals, nowMs, about) {
  const rule = ruleOf(policies, act)
  if (rule === null) return { satisfied: true, rejected: false, nextMs: Infinity }
  const excluded = [...(policies.author_may_approve ? [] : [about.author]), ...(policies.consumer_may_approve ? [] : [about.consumer])]
  const each = (approval, test) => approval.roles.every((role) => test({ ...approval, role }))
  const theirs = approvals.filter((it) => each(it, (one) => roll.belongs(one)))
  const given = [...latest(theirs, roll.people).values()].filter((it) => each(it, (one) => roll.counts(one)))
  return evaluate(rule, roll, given, nowMs, excluded, about)
}

/** [A8] In what a key may decide on an act now: its roles, and "" when the policy names it. */
export function capacities ({ manifest, act, roll }, signer) {
  const roles = manifest.roles.map(({ name }) => name).filter((name) => roll.current.get(name).includes(signer))
  return namedKeys(ruleOf(manifest.policies, act)).includes(signer) ? [...roles, ''] : roles
}

/** The decision of one side: whose policies, of which act, with whom in the roles. Where a signer does not hold there
 * what they signed in, the approval counts in all that they hold there by the manifest's own keys. */
export function judgeSide (side, approvals, nowMs, about) {
  const given = approvals.map((approval) => {
    const held = capacities(side, approval.signer)
    if (approval.roles.every((role) => side.roll.held.has(role) || held.includes(role))) return approval
    const plain = held.filter((role) => !side.roll.held.has(role))
    return plain.length > 0 ? { ...approval, roles: plain } : approval
  })
  return judge(side.manifest.policies, side.act, side.roll, given, nowMs, about)
}
