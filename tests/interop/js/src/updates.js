// Updates of a deployment, what was put into its escrow for them, and the author's fee: docs/spec.md, rules D10, D11,
// E3, E7, U1 to U9.
import { sameSigners } from './ballots.js'
import { fundsUnder, slotsOf } from './expand.js'
import { Refused } from './refused.js'

const UNDER_WAY = ['awaiting_approval', 'rolling', 'held']
const UNAPPROVED = ['awaiting_approval', 'expired', 'cancelled', 'rejected']
const CANCELLED = 'cancelled by the consumer'

const refuse = (rule, detail) => { throw new Refused(rule, detail) }

/** May this key speak for the consumer? */
export function isTheirs ({ consumer, bot }, key) {
  return key === consumer || key === bot
}

/** [U1] [U3] The record is that of the wish. */
function checkUpdate (life, generation, update, inForce) {
  const { asked, number, digest, contract, manifest } = generation
  const { deployment } = life.records
  const amount = asked.body[6]
  const wrong = (detail) => refuse('audit.update_record', `update ${number}: ${detail}`)
  if (!isTheirs(deployment, asked.sender) || asked.body[1] !== inForce.digest) refuse('audit.foreign', `update ${number} by a stranger, or out of order`)
  const ground = sameSigners(inForce.manifest, manifest) ? 'update' : 'deploy'
  const wanted = [number, asked.id, asked.sender, inForce.digest, digest, contract.document, amount, ground, asked.timeMs]
  const found = ['number', 'tx', 'sender', 'former', 'manifest', 'contract', 'locked', 'ground', 'requestedMs'].map((name) => update[name])
  if (wanted.join() !== found.join()) wrong('not what was asked for')
  if ((update.approvedMs !== 0) === UNAPPROVED.includes(update.status)) wrong(update.status)
  const times = [update.requestedMs, update.approvedMs, update.endedMs].filter((ms) => ms !== 0)
  if (times.some((ms, i) => i > 0 && ms < times[i - 1]) || times.at(-1) > life.anchor.timeMs) wrong('times out of order')
  const least = UNAPPROVED.slice(1).includes(update.status) ? update.locked : 0
  if (update.refunded < least || (update.refunded > update.locked && update.status !== 'done')) refuse('audit.escrow', `update ${number}: ${update.refunded} came back`)
}

/** [U1] to [U9] Each follows from its wish and from what was in force; what is in force is what the last one brought. */
export function checkUpdates (life) {
  const { deployment, updates } = life.records
  let inForce = life.generations[0]
  let formerEndMs = 0
  const names = slotsOf(inForce.manifest)
  for (const update of updates) {
    const generation = life.generations[update.number] ?? refuse('audit.update_record', `${update.number}`)
    checkUpdate(life, generation, update, inForce)
    const isOpen = UNDER_WAY.includes(update.status)
    if (generation.asked.timeMs < formerEndMs || (update.endedMs === 0) !== isOpen) refuse('audit.update_record', `update ${update.number} began or ended out of order`)
    if (isOpen && update.number !== updates.length) refuse('audit.update_record', `update ${update.number} is under way, and not the last`)
    if (update.approvedMs !== 0) for (const name of slotsOf(generation.manifest)) if (!names.includes(name)) names.push(name)
    if (update.status === 'done') inForce = generation
    formerEndMs = update.endedMs
  }
  const found = [deployment.generation, deployment.manifest, deployment.contract, ...deployment.slots].join()
  if (found !== [inForce.number, inForce.digest, inForce.manifest.contract, ...names].join()) refuse('audit.order_record', 'not what was asked for is in force')
  const last = updates.at(-1)
  const updating = last !== undefined && last.endedMs === 0 ? last.manifest : ''
  const brought = updates[inForce.number - 1] ?? { ground: 'deploy', requestedMs: 0 }
  const said = [deployment.updating, deployment.ground, deployment.askedMs].join()
  if (said !== [updating, brought.ground, brought.requestedMs].join()) refuse('audit.order_record', 'the record and its updates differ')
  checkSteered(life)
  checkFunds(life)
}

/** [U4] [U6] Cancelled exactly when the consumer or bot asked for it. */
function checkSteered (life) {
  const cancelled = new Set()
  for (const { tag, body: [deployment, number, action], sender, timeMs } of life.txs) {
    if (tag !== 'deployment.steer_update') continue
    if (deployment !== life.deployment || !isTheirs(life.records.deployment, sender)) refuse('audit.foreign', 'steered by a stranger')
    const update = life.records.updates[number - 1]
    const isOpen = update !== undefined && update.requestedMs <= timeMs && (update.endedMs === 0 || timeMs <= update.endedMs)
    if (!isOpen) refuse('audit.update_record', `no update ${number} was under way`)
    if (action !== 'cancel') continue
    cancelled.add(number)
    if (update.endedMs !== timeMs || !['cancelled', 'reverted'].includes(update.status)) refuse('audit.update_record', `update ${number} was cancelled`)
  }
  for (const { number, reason } of life.records.updates) {
    if ((reason === CANCELLED) !== cancelled.has(number)) refuse('audit.update_record', `update ${number} was cancelled by nobody`)
  }
}

/** What may have been funded by now under each manifest that was in force. In the block in which an update is done,
 * money may have come before it or after it. */
class Budgets {
  constructor (life) {
    this.life = life
    this.found = new Map([[0, new Set([life.generations[0].manifest.terms.budget])]])
    Object.assign(this, { toppedUp: 0, extendedS: 0, paidIn: life.generations[0].manifest.terms.budget })
  }

  goTo (nowMs) {
    for (const { number, status, endedMs } of this.life.records.updates) {
      if (status !== 'done') continue
      if (endedMs > nowMs) return
      const value = this.under(number)
      if (!this.found.has(number)) this.found.set(number, new Set())
      if (this.found.get(number).size === 0 || endedMs === nowMs) this.found.get(number).add(value)
    }
  }

  under (number) {
    return fundsUnder(this.life.generations[number].manifest.terms, this.toppedUp, this.extendedS)
  }

  add (amount) {
    this.paidIn += amount
    for (const [number, values] of this.found) this.found.set(number, new Set([...values].map((value) => value + amount)))
  }
}

/** [D10] [D11] [U2] [U8] [U9] Escrow and term are what was asked for, within the terms. */
function checkFunds (life) {
  const { deployment, updates } = life.records
  const { terms } = life.inForce.manifest
  const budgets = new Budgets(life)
  for (const tx of life.txs) {
    budgets.goTo(tx.timeMs)
    const { tag, body } = tx
    if (tag === 'deployment.update') {
      budgets.paidIn += body[6]
      checkLocked(life, tx, budgets)
      continue
    }
    if (tag !== 'deployment.top_up' && tag !== 'deployment.extend') continue
    const isExtension = tag === 'deployment.extend'
    const amount = isExtension ? body[3] : body[1]
    if (isExtension) {
      if (!isTheirs(deployment, tx.sender) || body[1] !== budgets.extendedS) refuse('audit.foreign', 'an extension by a stranger, or out of order')
      budgets.extendedS += body[2]
    } else budgets.toppedUp += amount
    if (body[0] !== life.deployment) refuse('audit.foreign', 'money for another deployment')
    budgets.add(amount)
  }
  budgets.goTo(life.anchor.timeMs)
  const wanted = [budgets.paidIn, budgets.toppedUp, budgets.extendedS].join()
  if ([deployment.paidIn, deployment.toppedUp, deployment.extendedS].join() !== wanted) refuse('audit.funds', `asked for: ${wanted}`)
  if (!budgets.found.get(deployment.generation)?.has(deployment.funded)) refuse('audit.funds', `${deployment.funded} were not asked for`)
  if (budgets.toppedUp > terms.top_up || budgets.extendedS > terms.extension_s) refuse('audit.funds', 'more than the terms let it have')
  const returned = updates.reduce((sum, { refunded }) => sum + refunded, 0)
  if (deployment.returned !== returned) refuse('audit.escrow', `${returned} came back by updates`)
}

/** [U2] An update locks exactly what its terms cost more. */
function checkLocked (life, tx, budgets) {
  const { number } = life.generations.find((one) => one.asked === tx)
  const done = life.records.updates.filter((update) => update.number < number && update.status === 'done')
  const former = budgets.found.get(done.at(-1)?.number ?? 0) ?? new Set()
  const whole = budgets.under(number)
  const isExact = [...former].some((funded) => tx.body[6] === Math.max(0, whole - funded))
  if (!isExact) refuse('audit.funds', `update ${number} locked ${tx.body[6]}`)
}

/** [E3] [E7] The author's fee, and what updates made it more: micro-credits in all. */
export function checkFees (life) {
  const { deployment, fees, updates } = life.records
  const wrong = (detail) => refuse('audit.fee', detail)
  const first = fees.get(0)
  let fee = life.generations[0].manifest.terms.fee
  if ((first !== undefined) !== deployment.feePaid) wrong('its bill and the record differ')
  let former = [fee]
  for (const { number, status, endedMs } of updates) {
    if (status !== 'done') continue
    const next = life.generations[number].manifest.terms.fee
    const found = fees.get(number)
    const isPaid = first !== undefined && first.fromMs <= endedMs
    if (first === undefined || first.fromMs >= endedMs) former = isPaid ? [...former, next] : [next]
    const more = next - fee
    if (found === undefined) {
      if (isPaid && first.fromMs < endedMs && more > 0) wrong(`update ${number} raised it, and paid nothing`)
    } else if (!isPaid || !(found.amount >= 0 && found.amount <= more) || found.fromMs !== endedMs || found.toMs !== endedMs) wrong(`update ${number} may pay ${more}`)
    fee = next
  }
  for (const { payee } of fees.values()) if (payee !== life.inForce.manifest.author) wrong('paid to another than the author')
  if (first !== undefined && !former.includes(first.amount)) wrong(`${first.amount}, the contract says ${former}`)
  return [...fees.values()].reduce((sum, { amount }) => sum + amount, 0)
}
