// The decisions of one act on one manifest, counted again at each moment: docs/spec.md, rules A2 to A8, N8, U3.
import { mostSpent } from './expand.js'
import { Rolls } from './organisations.js'
import { capacities, judgeSide, ruleOf } from './policy.js'
import { canonical } from './json.js'

export const LATE_MS = 60000 // timed work is done by the first block that reaches it: so late, at most
export const PLACES = ['deploy', 'signoff', 'delete', 'release'] // where decisions stand; those on an update under deploy

/** Do the same people decide by the same policies in both? */
export function sameSigners (one, other) {
  return canonical([one.roles, one.policies]).equals(canonical([other.roles, other.policies]))
}

/**
 * `metMs`: when it was satisfied first, `exact` when a transaction did that; `lostMs`: since when it is not any more;
 * `turnedMs`: when members of an organisation were others last. `parts`: { manifest, act, rolls }.
 */
export class Ballot {
  constructor (parts, about, height, timeMs, { isChange = false, former = new Map(), metMs = 0 } = {}) {
    this.turns = parts[0].rolls.turns.filter(([at]) => at >= height)
    this.approvals = new Map(former)
    Object.assign(this, { parts, about, isChange, metMs, lostMs: 0, turnedMs: 0, exact: false })
    this.policies = parts.at(-1).manifest.policies
    this.rule = ruleOf(parts[0].manifest.policies, parts[0].act)
    this.turnTo(height)
    this.note(timeMs, true)
  }

  turnTo (height) {
    this.sides = this.parts.map(({ manifest, act, rolls }) => ({ manifest, act, roll: rolls.at(height) }))
  }

  /** A decision in place of the signer's former one; returns it as it counts. */
  cast (signer, predicate, timeMs, number) {
    const { role, decision, expires_ms: expiresMs } = predicate
    const { roll } = this.sides.find((side) => capacities(side, signer).includes(role)) ?? this.sides[0]
    const made = {
      signer, roles: [role], decision, timeMs, number, expiresMs: expiresMs || timeMs + this.policies.validity_s * 1000,
      seat: roll.seat(role, signer)
    }
    made.sinceMs = this.since(this.former(roll, signer), made)
    this.approvals.set(signer, made)
    this.note(timeMs, true)
    return made
  }

  /** What the person decided before by any of their keys, if it counts still. */
  former (roll, signer) {
    const known = roll.people.group(signer).map((key) => this.approvals.get(key)).filter((it) => it !== undefined)
    const mine = known.filter((it) => it.signer === signer || roll.belongs({ ...it, role: it.roles[0] }))
    const last = mine.reduce((a, b) => (a === undefined || b.number > a.number ? b : a), undefined)
    return last !== undefined && roll.counts({ ...last, role: last.roles[0] }) ? last : undefined
  }

  /** [G5] Since when they grant without a break. */
  since (former, made) {
    const isOn = former !== undefined && former.decision === 'granted' && made.decision === 'granted' &&
      former.roles.join() === made.roles.join() && !(former.expiresMs !== 0 && former.expiresMs <= made.timeMs)
    return isOn ? former.sinceMs || former.timeMs : made.timeMs
  }

  at (timeMs) {
    const given = [...this.approvals.values()]
    const found = (this.isChange ? this.sides : this.sides.slice(0, 1)).map((side) => judgeSide(side, given, timeMs, this.about))
    return {
      satisfied: found.every(({ satisfied }) => satisfied),
      rejected: found.some(({ rejected }) => rejected),
      nextMs: Math.min(...found.map(({ nextMs }) => nextMs))
    }
  }

  /** Let time pass up to a block: waits end, approvals expire, members come and go. */
  follow (timeMs, height) {
    while (this.turns.length > 0 && this.turns[0][0] < height && this.turns[0][1] <= timeMs) {
      const [at, atMs] = this.turns.shift()
      this.pass(atMs)
      this.turnTo(at + 1)
      this.turnedMs = atMs
      this.note(atMs, false)
    }
    this.pass(timeMs)
  }

  /** [Y8] What it is about was taken back, and is there again: judged anew, by those who decided before. */
  restart (timeMs, height) {
    this.follow(timeMs, height)
    Object.assign(this, { metMs: 0, lostMs: 0, exact: false })
    this.note(timeMs, false)
  }

  pass (timeMs) {
    for (;;) {
      const times = [...[...this.approvals.values()].map(({ expiresMs }) => expiresMs), this.nextMs]
      const next = Math.min(...times.filter((ms) => ms > this.timeMs && ms <= timeMs), Infinity)
      if (next === Infinity) return
      this.note(next, false)
    }
  }

  note (timeMs, exact) {
    const { satisfied, nextMs } = this.at(timeMs)
    Object.assign(this, { timeMs, nextMs })
    if (satisfied) {
      this.lostMs = 0
      if (this.metMs === 0) Object.assign(this, { metMs: timeMs, exact })
    } else if (this.metMs !== 0 && this.lostMs === 0) this.lostMs = timeMs
  }

  /** Would the ledger have recorded that, up to `untilMs`, as the first time? `stoodStill`: it may have been suspended
   * when time alone satisfied the policy, and asked again later. */
  fits (recordedMs, untilMs, stoodStill = false) {
    if (this.exact || this.metMs === 0) return recordedMs === this.metMs
    if (stoodStill) return recordedMs === 0 || (this.metMs <= recordedMs && recordedMs <= untilMs)
    if (recordedMs === 0) return this.metMs > untilMs - LATE_MS
    return this.metMs <= recordedMs && recordedMs <= this.metMs + LATE_MS
  }

  /** May work go on now: approved, or lost so shortly ago that the ledger had not looked yet, or let run on? */
  letsWork (timeMs, isClaim) {
    if (this.at(timeMs).satisfied) return true
    if (this.lostMs !== 0 && this.lostMs === this.turnedMs && timeMs <= this.lostMs + LATE_MS) return true
    const runOnMs = this.policies.run_on_s * 1000
    return !this.isChange && !isClaim && runOnMs !== 0 && this.lostMs !== 0 && timeMs <= this.lostMs + runOnMs + LATE_MS
  }
}

function aboutOf (life, number, precedentMs) {
  const { manifest, asked } = life.generations[number]
  const { consumer } = life.records.deployment
  return { author: manifest.author, consumer, budget: mostSpent(manifest.terms), orderedMs: asked.timeMs, precedentMs }
}

/** Of an act on a manifest that is or was in force, from then on. `former`: the ballot of the update that brought it. */
export function ballotOf (life, act, number, former) {
  const { manifest, asked } = life.generations[number]
  const { deployment, updates } = life.records
  const rolls = new Rolls(life.histories, manifest.roles)
  if (number === 0) {
    const done = updates.find(({ status }) => status === 'done')
    const about = aboutOf(life, 0, done?.formerPrecedentMs ?? deployment.precedentMs)
    return new Ballot([{ manifest, act, rolls }], about, asked.height, asked.timeMs)
  }
  const { ground, endedMs, precedentMs } = updates[number - 1]
  const part = { manifest, act: act === 'deploy' ? ground : act, rolls }
  const before = former === undefined ? {} : { former: former.approvals, metMs: endedMs }
  return new Ballot([part], aboutOf(life, number, precedentMs), rolls.heightAt(endedMs), endedMs, before)
}

/** Of an update, from when it was asked for: by what was in force and, where the signers change, by its own manifest. */
export function ballotOn (life, number) {
  const { manifest, asked } = life.generations[number]
  const update = life.records.updates[number - 1]
  const { manifest: former } = life.generations.find(({ digest }) => digest === update.former)
  const part = (of, act) => ({ manifest: of, act, rolls: new Rolls(life.histories, of.roles) })
  const parts = [part(former, 'update'), ...(sameSigners(former, manifest) ? [] : [part(manifest, 'deploy')])]
  return new Ballot(parts, aboutOf(life, number, update.precedentMs), asked.height, asked.timeMs, { isChange: true })
}
