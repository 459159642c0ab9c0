// What was approved when, and what that allowed: docs/spec.md, rules A1 to A8, D8, U3 to U9, Y5 to Y9.
import { LATE_MS, PLACES, ballotOf, ballotOn } from './ballots.js'
import { workloadOf } from './expand.js'
import { canonical } from './json.js'
import { hashTagged } from './keys.js'
import { encode } from './msgpack.js'
import { Refused } from './refused.js'

const WORK = ['fetching', 'verified', 'running', 'committed', 'succeeded'] // receipts that need a standing approval
const RELEASE_MS_MAX = 90 * 24 * 3600000

const refuse = (rule, detail) => { throw new Refused(rule, detail) }

/** Ballots of all manifests while the chain is read once. In the block in which an update is done, what was in force
 * before counts until something says that the new one does. */
class Course {
  constructor (life) {
    const { deployment, updates } = life.records
    this.life = life
    this.untilMs = Math.min(deployment.endedMs || life.anchor.timeMs, life.anchor.timeMs)
    this.done = updates.filter(({ status }) => status === 'done').map(({ number }) => number)
    this.number = 0 // of the manifest in force
    this.updates = new Map()
    this.delayed = new Set() // updates that waited while work ran on without approval
    this.ballots = new Map(PLACES.map((act) => [act, ballotOf(life, act, 0)]))
    this.first = this.ballots.get('deploy')
  }

  update (number) {
    return this.life.records.updates[number - 1]
  }

  goTo (timeMs, height) {
    while (this.done.length > 0 && this.update(this.done[0]).endedMs < timeMs) {
      this.pass(this.update(this.done[0]).endedMs, height)
      this.switchTo(this.done[0])
    }
    this.pass(timeMs, height)
  }

  pass (wantedMs, height) {
    const timeMs = Math.min(wantedMs, this.untilMs)
    for (const ballot of this.ballots.values()) ballot.follow(timeMs, height)
    if (this.ballots.get('deploy').lostMs !== 0) this.life.stoodStill = true
    for (const [number, ballot] of this.updates) {
      const { endedMs, approvedMs } = this.update(number)
      ballot.follow(Math.min(timeMs, endedMs || timeMs), height)
      if (this.ballots.get('deploy').lostMs !== 0 && !(approvedMs > 0 && approvedMs < timeMs)) this.delayed.add(number)
    }
  }

  switchTo (number) {
    if (!this.updates.has(number)) refuse('audit.order', `update ${number} was done before it was asked for`)
    this.done = this.done.filter((other) => other !== number)
    this.number = number
    for (const act of PLACES) {
      this.ballots.set(act, ballotOf(this.life, act, number, act === 'deploy' ? this.updates.get(number) : undefined))
    }
  }

  /** The next update may have been done earlier in this very block. */
  goOn (number, timeMs) {
    if (this.done.length > 0 && this.done[0] === number && this.update(number).endedMs === timeMs) this.switchTo(number)
  }

  /** Where a decision counts now; undefined: nowhere. */
  of (act, number, timeMs) {
    if (act === 'update') {
      const found = this.update(number)
      const isOpen = found !== undefined && (found.endedMs === 0 || timeMs <= found.endedMs)
      return isOpen ? this.updates.get(number) : undefined
    }
    if (number !== this.number) this.goOn(number, timeMs)
    return number === this.number ? this.ballots.get(act) : undefined
  }

  /** Numbers of the manifests that may be worked by: what is in force, and an update that rolls. */
  allows ({ timeMs, tag }) {
    const isClaim = tag === 'slot.claim'
    const found = this.ballots.get('deploy').letsWork(timeMs, isClaim) ? [this.number] : []
    for (const [number, ballot] of this.updates) {
      const { approvedMs, endedMs } = this.update(number)
      const isOpen = endedMs === 0 || timeMs <= endedMs
      if (approvedMs !== 0 && approvedMs <= timeMs && isOpen && ballot.letsWork(timeMs, isClaim)) found.push(number)
    }
    return found
  }
}

/** [Y1] To tell what one was bound to is no work: that is done, and may be told while the approval is withdrawn. */
function checkReport (life, course, tx) {
  const { status, nonce } = tx.document.predicate
  if (nonce === '') return WORK.includes(status) ? checkWork(life, course, tx) : undefined
  if (!course.ballots.get('deploy').at(tx.timeMs).satisfied) life.suspended.add(tx.id)
}

/** [A9] A decision on a release is about the results on record, unless an update took them back since. */
function checkReleased (life, { act, results }, timeMs) {
  const onRecord = life.records.deployment.results
  if (act !== 'release' || onRecord === '' || results === onRecord) return
  if (!life.records.updates.some(({ approvedMs }) => approvedMs >= timeMs)) refuse('audit.foreign', 'a release of other results')
}

/** [U5] [U7] Work is of a manifest that is approved then, or the same work by one before it. */
function checkWork (life, course, tx) {
  const name = tx.tag === 'slot.claim' ? tx.body[1] : tx.document.predicate.slot
  const wanted = course.allows(tx).map((number) => workloadOf(life.generations[number].manifest, name)).filter((it) => it !== undefined)
  if (wanted.length === 0) refuse('audit.not_approved', `work at height ${tx.height} without approval`)
  if (tx.tag === 'slot.claim') return
  const known = life.generations.find(({ digest }) => digest === tx.document.subject)
  const work = known === undefined ? undefined : workloadOf(known.manifest, name)
  if (work === undefined) refuse('audit.foreign', 'a receipt of another deployment')
  if (!wanted.some((other) => sameWork(work, other))) refuse('audit.not_approved', `work at height ${tx.height} by another manifest`)
}

/** What a holder does is the same. Replicas that must agree begin anew when their number, or how many must agree, changes. */
export function sameWork (one, other) {
  const many = ({ replicas, agree }) => (one.agree !== 0 || other.agree !== 0 ? [replicas, agree] : [])
  const bare = ({ replicas, agree, depends_on: after, update, ...rest }) => canonical([rest, many({ replicas, agree })])
  return bare(one).equals(bare(other))
}

function checkDecision (life, { document }) {
  const { predicate, subject } = document
  if (predicate.chain_id !== life.chainId || predicate.deployment !== life.deployment) refuse('audit.foreign', 'an approval of another deployment')
  if (subject !== life.generations[predicate.update]?.digest) refuse('audit.foreign', 'an approval of another manifest')
  if (!life.records.documents.get(document.document)) refuse('audit.not_accepted', document.document)
}

/** Each decision is about its manifest, was accepted, none is missing; there was work only while approved. */
export function checkApprovals (life) {
  const course = new Course(life)
  const { deployment, approvals } = life.records
  const last = new Map()
  let number = 0
  for (const tx of life.txs) {
    course.goTo(tx.timeMs, tx.height)
    if (tx.tag === 'deployment.update') {
      const asked = life.generations.find((one) => one.asked === tx).number
      course.updates.set(asked, ballotOn(life, asked))
    } else if (tx.tag === 'approval.decide') {
      checkDecision(life, tx)
      const { signer, predicate, document } = tx.document
      const { act, update, decision, role } = predicate
      const ballot = course.of(act, update, tx.timeMs) ?? refuse('audit.foreign', 'an approval of what was not to be decided on')
      const { expiresMs, seat } = ballot.cast(signer, predicate, tx.timeMs, number)
      const place = act === 'update' ? 'deploy' : act
      last.set(`${place} ${update} ${signer}`, [document, decision, role, tx.height, tx.timeMs, expiresMs, number, ...seat].join())
      checkReleased(life, predicate, tx.timeMs)
      number++
    } else if (tx.tag === 'deployment.cancel') checkConsent(life, course, tx)
    else if (tx.tag === 'slot.claim') checkWork(life, course, tx)
    else if (tx.tag === 'slot.report') checkReport(life, course, tx)
  }
  course.goTo(life.anchor.timeMs, life.anchor.stateHeight)
  course.goOn(course.done[0], life.anchor.timeMs)
  if (!course.first.fits(deployment.approvedMs, course.untilMs)) refuse('audit.approved_time', `satisfied first at ${course.first.metMs}`)
  checkBallots(life, course)
  for (const [place, record] of approvals) {
    const said = record === null ? undefined : [record.document, record.decision, record.role, record.height, record.timeMs,
      record.expiresMs, record.number, ...record.seat].join()
    if (last.get(place) !== said) refuse('audit.approval_record', place)
    last.delete(place)
  }
  if (last.size > 0) refuse('audit.not_a_stakeholder', 'a decision by a key that holds no role')
  if (number !== deployment.decisions) refuse('audit.incomplete', `${number} decisions of ${deployment.decisions}`)
  const now = Object.fromEntries([...course.ballots].map(([act, ballot]) => [act, ballot.rule === null ? 'none' : state(ballot.at(life.anchor.timeMs))]))
  const policy = course.first.metMs !== 0 ? 'satisfied' : state(course.first.at(course.untilMs))
  return { approvals: number, policy, now, updates: life.records.updates.map((update) => toldOf(life, course, update)) }
}

const state = ({ satisfied, rejected }) => (satisfied ? 'satisfied' : rejected ? 'rejected' : 'open')

function toldOf (life, course, update) {
  const { name, version } = life.generations[update.number].manifest
  const policy = state(course.updates.get(update.number).at(update.endedMs || course.untilMs))
  return { number: update.number, status: update.status, contract: `${name}@${version}`, manifest: update.manifest, approved_ms: update.approvedMs, policy }
}

/** [A7] Ended only with the consent that its policy asks for, once it was approved. */
function checkConsent (life, course, tx) {
  const may = () => course.ballots.get('delete').at(tx.timeMs).satisfied
  const before = may()
  course.goOn(course.done[0], tx.timeMs)
  const after = may()
  if (life.records.deployment.approvedMs !== 0 && !before && !after) refuse('audit.cancelled', `at height ${tx.height} without consent`)
}

/** [U3] [U4] Each update was approved when its policies were satisfied first, or ended without. */
function checkBallots (life, course) {
  for (const { number, endedMs, approvedMs, status } of life.records.updates) {
    const ballot = course.updates.get(number)
    const untilMs = endedMs || course.untilMs
    const isDelayed = course.delayed.has(number) && ballot.metMs !== 0 && (approvedMs === 0 || approvedMs >= ballot.metMs)
    if (!isDelayed && !ballot.fits(approvedMs, untilMs)) refuse('audit.update_approval', `update ${number}: satisfied first at ${ballot.metMs}`)
    if (approvedMs !== 0 && ballot.lostMs !== 0 && untilMs > ballot.lostMs + LATE_MS) refuse('audit.update_approval', `update ${number}: lost at ${ballot.lostMs}`)
    if (status === 'rejected' && !ballot.at(untilMs).rejected) refuse('audit.update_approval', `update ${number} was not rejected`)
  }
}

/** An act on what is in force, followed to `untilMs`. Of a release: by decisions on exactly these results, and judged
 * anew after the last update that had them taken back and came to nothing (`backMs`; 0: none). */
function followed (life, act, untilMs, results = undefined, backMs = 0) {
  const { generation } = life.records.deployment
  const ballot = ballotOf(life, act, generation)
  const begunMs = generation === 0 ? life.order.timeMs : life.records.updates[generation - 1].endedMs
  let number = 0
  for (const tx of life.txs) {
    if (backMs !== 0 && tx.timeMs > backMs) {
      ballot.restart(backMs, tx.height)
      backMs = 0
    }
    if (tx.timeMs >= begunMs) ballot.follow(tx.timeMs, tx.height)
    if (tx.tag !== 'approval.decide') continue
    const { signer, predicate } = tx.document
    if (predicate.act === act && predicate.update === generation && predicate.results === results) ballot.cast(signer, predicate, tx.timeMs, number)
    number++
  }
  if (backMs !== 0) ballot.restart(backMs, life.anchor.stateHeight)
  ballot.follow(untilMs, life.anchor.stateHeight)
  return ballot
}

/** [A6] [U9] Signed off exactly when the policy in force was satisfied first. */
export function checkSignoff (life) {
  const { signedOffMs, endedMs } = life.records.deployment
  const ballot = followed(life, 'signoff', life.anchor.timeMs)
  const fits = ballot.rule === null ? [0, endedMs].includes(signedOffMs) : ballot.fits(signedOffMs, life.anchor.timeMs, life.stoodStill)
  if (!fits) refuse('audit.signoff_time', `satisfied first at ${ballot.metMs}`)
}

/** Results of the replicas of a job that count: of those that must agree, of those that do; else of all. */
export function agreeing (workload, slots) {
  const replicas = Array.from({ length: workload.replicas }, (_, i) => slots.get(`${workload.name}/${i}`)).filter((it) => it !== undefined)
  const done = replicas.filter(({ status }) => status === 'succeeded')
  if (workload.agree === 0) return done.length === replicas.length ? done : []
  const found = (slot) => JSON.stringify(resultsOf(slot))
  const best = done.reduce((a, b) => {
    const mine = done.filter((it) => found(it) === found(b))
    return mine.length > a.length ? mine : a
  }, [])
  return best.length >= workload.agree ? best : []
}

function resultsOf ({ results }) {
  return [...results].sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
}

function resultsDigest (life, { manifest, digest }) {
  const found = []
  for (const workload of manifest.workloads) {
    if (workload.kind !== 'job' || workload.results.length === 0) continue
    const mine = agreeing(workload, life.records.slots)
    if (mine.length === 0) return ''
    found.push(...mine.map((slot) => [slot.name, slot.term, resultsOf(slot)]))
  }
  if (found.length === 0) return ''
  const bytes = [life.deployment, digest].map((it) => Buffer.from(it, 'hex'))
  return hashTagged('results/1', encode([...bytes, found])).toString('hex')
}

/** [Y5] [Y7] [Y9] Released exactly when who may had signed for exactly these results. */
export function checkRelease (life) {
  const { deployment, updates, slots } = life.records
  const { results, releasedMs, endedMs, status, withheld, generation } = deployment
  if (life.inForce.manifest.policies.release === null) {
    if (results !== '' || releasedMs !== 0) refuse('audit.results', 'held back, and no policy asks for it')
    return
  }
  const isLate = endedMs !== 0 && life.anchor.timeMs >= endedMs + RELEASE_MS_MAX
  const isGone = releasedMs === 0 && (isLate || (endedMs !== 0 && status !== 'completed'))
  const isNotYet = updates.some((update) => update.approvedMs !== 0 && update.endedMs === 0) || withheld !== 0 ||
    [...slots.values()].some((slot) => slot.status === 'committed')
  if (results !== resultsDigest(life, life.inForce) && !(results === '' && (isGone || isNotYet))) refuse('audit.results', 'another digest')
  const untilMs = endedMs === 0 ? life.anchor.timeMs : Math.min(life.anchor.timeMs, endedMs + RELEASE_MS_MAX)
  const vain = updates.filter(({ number, approvedMs }) => number > generation && approvedMs !== 0)
  const ballot = followed(life, 'release', untilMs, results, Math.max(0, ...vain.map((update) => update.endedMs)))
  const fits = results === '' ? releasedMs === 0 : ballot.fits(releasedMs, untilMs, life.stoodStill)
  if (!(isGone && ballot.metMs === 0) && !fits) refuse('audit.release_time', `satisfied first at ${ballot.metMs}`)
}
