// Jobs whose replicas must agree: each comparison by the manifest of its terms. docs/spec.md, rules R8, Y1 to Y4, Y10.
import { sameWork } from './approvals.js'
import { workloadOf } from './expand.js'
import { canonical } from './json.js'
import { hashTagged } from './keys.js'
import { encode } from './msgpack.js'
import { Refused } from './refused.js'

const refuse = (detail) => { throw new Refused('audit.agreement', detail) }
const bytes = (hex) => Buffer.from(hex, 'hex')

/** Replicas of a job that bound themselves before any of them told: `bound` and `told` by slot. */
class Round {
  constructor (name, workload) {
    Object.assign(this, { name, workload, bound: new Map(), told: new Map(), toldMs: 0, isSuspended: false })
  }

  /** [Y1] */
  bind ({ slot, term, commitment }) {
    this.bound.set(slot, { term, commitment })
  }

  /** [Y1] Exactly what it had committed to. */
  tell (life, tx, said) {
    const { slot, term, nonce } = said
    const results = Object.entries(said.results).map(([path, { sha256 }]) => [path, sha256])
      .sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
    const words = [life.chainId, bytes(life.deployment), slot, term, bytes(tx.sender), bytes(nonce), results]
    const mine = this.bound.get(slot)
    const made = hashTagged('commitment/1', encode(words)).toString('hex')
    if (mine?.term !== term || mine.commitment !== made) refuse(`${slot} told what it had not committed to`)
    this.told.set(slot, canonical(results).toString())
    this.toldMs = tx.timeMs
    this.isSuspended = life.suspended.has(tx.id)
  }

  /** Slots that found what enough others found. */
  get winners () {
    const counts = new Map()
    for (const found of this.told.values()) counts.set(found, (counts.get(found) ?? 0) + 1)
    const best = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a), [null, 0])
    return best[1] >= this.workload.agree ? [...this.told.keys()].filter((slot) => this.told.get(slot) === best[0]) : []
  }

  get isOver () {
    return this.told.size > 0 && this.told.size === this.bound.size
  }
}

const ENDED = ['completed', 'rejected', 'expired', 'cancelled', 'failed']

/** Did the ledger compare this round, for certain? Over when all that were bound have told; or when the records show it. */
function isCompared (life, round, isLast) {
  const { deployment, slots } = life.records
  const mayPause = round.manifest.terms.grace_s > 0
  if (round.isOver && !round.isSuspended && !mayPause) return true
  const hasBroken = ENDED.includes(deployment.status) && deployment.status !== 'completed' && (round.isSuspended || mayPause)
  return isLast && !hasBroken && round.told.size > 0 && [...round.bound].every(([slot, { term }]) => {
    const record = slots.get(slot)
    return record.term === term && record.status === (round.told.has(slot) ? 'succeeded' : 'failed')
  })
}

/** [R8] [Y4] Only those that agree are paid, and nothing goes on when none do. */
function closeRound (life, round, isLast) {
  if (!isCompared(life, round, isLast)) return
  const winners = round.winners
  if (winners.length === 0 && !isLast) refuse(`${round.name} went on, and no ${round.workload.agree} agreed`)
  for (const slot of winners.length > 0 ? round.told.keys() : []) {
    const bill = life.records.bills.get(`${slot} ${round.bound.get(slot).term}`)
    if (!winners.includes(slot) && bill !== undefined && bill.amount !== bill.withheld) refuse(`${slot} disagrees, and was paid`)
  }
}

/** An update to other work came between: the replicas began anew. */
function isBroken (life, round, untilMs) {
  return life.records.updates.some(({ number, approvedMs, endedMs }) => {
    const next = life.generations[number].manifest.workloads.find(({ name }) => name === round.name)
    const isOther = next === undefined || !sameWork(next, round.workload)
    return approvedMs !== 0 && isOther && approvedMs <= untilMs && (endedMs === 0 || endedMs >= round.toldMs)
  })
}

/** The comparisons of all jobs, in order: each of one manifest's work. */
function roundsOf (life) {
  const found = new Map()
  for (const tx of life.txs) {
    if (tx.tag !== 'slot.report') continue
    const { subject, predicate: said } = tx.document
    const { manifest } = life.generations.find(({ digest }) => digest === subject)
    const workload = workloadOf(manifest, said.slot)
    if (workload.agree === 0 || !['committed', 'succeeded'].includes(said.status)) continue
    if (!found.has(workload.name)) found.set(workload.name, [])
    const mine = found.get(workload.name)
    let round = mine.at(-1)
    const isSame = round !== undefined && sameWork(round.workload, workload)
    if (said.status === 'succeeded') {
      if (!isSame) refuse(`${said.slot} told what it had not committed to`)
      round.tell(life, tx, said)
      continue
    }
    const isAnew = !isSame || round.bound.has(said.slot) || (round.told.size > 0 && isBroken(life, round, tx.timeMs))
    if (!isAnew && round.told.size > 0) refuse(`${said.slot} committed after others had told`)
    if (isAnew) mine.push(round = Object.assign(new Round(workload.name, workload), { manifest }))
    round.bind(said)
  }
  return found
}

/** [R8] [Y1] [Y3] [Y4] Replicas committed before any of them told, and told that; only those that agree are paid. */
export function checkAgreement (life) {
  const { deployment, bills } = life.records
  const withheld = [...bills.values()].reduce((sum, bill) => sum + bill.withheld, 0)
  const isOff = withheld !== deployment.withheld || (deployment.endedMs !== 0 && withheld !== 0)
  if (isOff) throw new Refused('audit.withheld', `${deployment.withheld}, the bills say ${withheld}`)
  const rounds = roundsOf(life)
  for (const mine of rounds.values()) mine.forEach((round, i) => closeRound(life, round, i === mine.length - 1))
  for (const workload of life.inForce.manifest.workloads) {
    if (workload.agree === 0 || deployment.status !== 'completed' || deployment.reason !== '') continue
    const last = rounds.get(workload.name)?.at(-1)
    const isAgreed = last !== undefined && sameWork(last.workload, workload) && last.winners.length > 0
    if (!isAgreed) refuse(`${workload.name}: completed, and no ${workload.agree} agree`)
  }
}
