// What was done, by whom, and what it cost: receipts, terms, bills, results that must agree, penalties, disputes.
// docs/spec.md, rules C7, D1, D7, D12, E1 to E6, R1, R8, R9, Y1 to Y4.
import { agreeing } from './approvals.js'
import { cost, workloadOf } from './expand.js'
import { hashTagged } from './keys.js'
import { encode } from './msgpack.js'
import { Refused } from './refused.js'
import { checkFees, isTheirs } from './updates.js'

const PENALTY_MS = 3600000

const refuse = (rule, detail) => { throw new Refused(rule, detail) }

/** [D1] [D7] The record is that of the order; cancelled exactly when that was asked for. */
export function checkOrder (life) {
  const { deployment } = life.records
  const { sender, body, timeMs } = life.order
  const found = [deployment.id, deployment.consumer, deployment.bot, deployment.orderedMs].join()
  if (found !== [life.deployment, sender, body[5] || sender, timeMs].join()) refuse('audit.order_record', 'not what the order asked for')
  const { budget } = life.generations[0].manifest.terms
  if (body[4] !== budget) refuse('audit.escrow', `${body[4]}, the budget is ${budget}`)
  const times = []
  for (const tx of life.txs) {
    if (tx.tag !== 'deployment.cancel') continue
    if (tx.body[0] !== life.deployment || !isTheirs(deployment, tx.sender)) refuse('audit.foreign', 'a cancel by a stranger')
    times.push(tx.timeMs)
  }
  const wanted = deployment.status === 'cancelled' ? [deployment.endedMs] : []
  if (times.join() !== wanted.join()) refuse('audit.cancelled', `status ${deployment.status}, ${times.length} cancels`)
}

/** The manifest of this digest, if it has the slot. */
function generationOf (life, digest, slot) {
  return life.generations.find((one) => one.digest === digest && workloadOf(one.manifest, slot) !== undefined)
}

const reports = (life) => life.txs.filter(({ tag }) => tag === 'slot.report')
const placeOf = ({ slot, term }) => `${slot} ${term}`

/** [R1] Each accepted receipt is there with its transaction, and the other way round. */
export function checkReceipts (life) {
  const left = new Map([...life.records.receipts].map(([place, found]) => [place, [...found]]))
  const before = new Map() // the status told last, of each term
  for (const tx of reports(life)) {
    const { predicate } = tx.document
    const record = left.get(placeOf(predicate))?.shift()
    const wanted = [life.deployment, predicate.slot, predicate.term, tx.sender, predicate.status, tx.body[0], tx.height, tx.timeMs]
    const found = record && [record.deployment, record.slot, record.term, record.node, record.status, record.envelope, record.height, record.timeMs]
    if (found?.join() !== wanted.join()) refuse('audit.receipt_record', placeOf(predicate))
    checkReceipt(life, tx, before.get(placeOf(predicate)))
    before.set(placeOf(predicate), predicate.status)
  }
  if ([...left.values()].some((rest) => rest.length > 0)) refuse('audit.incomplete', "a receipt's transaction is missing")
}

const VERIFIED = ['verified', 'running', 'committed', 'succeeded']

/** [R9] What a receipt lacks, or has other than the manifest; '' when nothing is amiss. */
function unstated (workload, said, before) {
  if (said.driver !== workload.runtime) return `the driver is ${said.driver}`
  if (!said.level) return 'no isolation level'
  const wanted = new Map(workload.artifacts.map((it) => [it.path, it.sha256]))
  const told = Object.entries(said.artifacts)
  for (const [path, digest] of told) if (wanted.get(path) !== digest) return `${path} is not what the manifest names`
  if (told.length < wanted.size && [said.status, before].some((it) => VERIFIED.includes(it))) return 'not all artifacts that were verified'
  if (['committed', 'succeeded'].includes(said.status) && said.exit_code === null) return 'no exit code'
  return ''
}

function checkReceipt (life, { sender, document: { signer, subject, predicate } }, before) {
  const { slots, documents } = life.records
  const { slot, status } = predicate
  const generation = generationOf(life, subject, slot)
  if (signer !== sender || predicate.node !== sender) refuse('audit.receipt_signer', slot)
  if (generation === undefined || predicate.chain_id !== life.chainId || predicate.deployment !== life.deployment) refuse('audit.foreign', 'of another deployment')
  const { manifest } = generation
  if (predicate.contract !== manifest.contract) refuse('audit.foreign', 'of another contract')
  const lack = unstated(workloadOf(manifest, slot), predicate, before)
  if (lack) refuse('audit.receipt_incomplete', `${slot}: ${lack}`)
  if (!predicate.approvals.every((id) => documents.has(id))) refuse('audit.receipt_approvals', 'never given')
  if (status !== 'succeeded') return
  const results = Object.entries(predicate.results).map(([path, { sha256 }]) => [path, sha256])
  const record = slots.get(slot)
  const isSame = record.results.size === results.length && results.every(([path, digest]) => record.results.get(path) === digest)
  if (record.term === predicate.term && !isSame) refuse('audit.results', slot)
}

/** Digest of the manifest that each term is of, as far as its holder or its slot says. */
function termManifests (life) {
  const out = new Map()
  for (const { name, term, manifest } of life.records.slots.values()) if (term !== 0) out.set(`${name} ${term}`, manifest)
  for (const { document: { subject, predicate } } of reports(life)) {
    const place = placeOf(predicate)
    if (!out.has(place)) out.set(place, subject)
    if (out.get(place) !== subject) refuse('audit.terms', `${place} is of two manifests`)
  }
  for (const [place, digest] of out) if (generationOf(life, digest, place.split(' ')[0]) === undefined) refuse('audit.terms', `${place} is of no manifest of this`)
  return out
}

function farmerOf (life, node) {
  return life.records.farms.get(life.records.nodes.get(node).farm).owner
}

/** [C7] Terms only grow, each has one holder, who asked for it before. */
export function checkTerms (life) {
  const { slots, bills } = life.records
  const [asked, holders, newest] = [new Set(), new Map(), new Map()]
  const hold = (place, node) => {
    if (!holders.has(place)) holders.set(place, node)
    if (holders.get(place) !== node) refuse('audit.two_holders', place)
  }
  for (const { tag, body, sender, document } of life.txs) {
    if (tag === 'slot.claim') {
      if (body[0] !== life.deployment) refuse('audit.foreign', 'a claim of another deployment')
      asked.add(`${body[1]} ${body[2]} ${sender}`)
    } else if (tag === 'slot.report') {
      const { slot, term } = document.predicate
      if (!asked.has(`${slot} ${term} ${sender}`)) refuse('audit.unclaimed', `${slot} term ${term}`)
      if (term < (newest.get(slot) ?? 1)) refuse('audit.terms', `${slot}: term ${term} after ${newest.get(slot)}`)
      newest.set(slot, term)
      hold(`${slot} ${term}`, sender)
    } else if (tag === 'slot.renew' && body[0].every(([deployment]) => deployment !== life.deployment)) refuse('audit.foreign', 'a renewal of other deployments')
  }
  for (const { name, term, holder } of slots.values()) {
    if (holder !== '') hold(`${name} ${term}`, holder)
    if ((newest.get(name) ?? 0) > term) refuse('audit.terms', `${name}: a receipt beyond term ${term}`)
  }
  for (const [place, { payee }] of bills) {
    if (holders.has(place) && payee !== farmerOf(life, holders.get(place))) refuse('audit.payee', place)
  }
  termManifests(life)
}

/** [E1] [E3] [E4] [E6] What was billed is what left the escrow; no stretch of time is paid twice. */
export function checkBills (life) {
  const { deployment, bills } = life.records
  const fees = checkFees(life)
  const manifests = termManifests(life)
  const until = new Map()
  for (const [place, bill] of bills) {
    const [name] = place.split(' ')
    checkBill(life, place, bill, until.get(name) ?? deployment.approvedMs, manifests.get(place))
    until.set(name, bill.toMs)
  }
  const total = [...bills.values()].reduce((sum, { amount }) => sum + amount, fees)
  if (total !== deployment.spent) refuse('audit.bills', `bills make ${total}, the escrow paid ${deployment.spent}`)
  const rest = deployment.paidIn - deployment.spent - deployment.returned
  if (rest < 0 || ![0, rest].includes(deployment.escrow)) refuse('audit.escrow', `${deployment.escrow} of ${rest}`)
}

function checkBill (life, place, bill, earliestMs, digest) {
  const slot = life.records.slots.get(place.split(' ')[0])
  const { fromMs, toMs, missedMs, amount } = bill
  if (placeOf(bill) !== place || !(earliestMs <= fromMs && fromMs <= toMs)) refuse('audit.bill_time', `${place} overlaps`)
  if (!(missedMs >= 0 && missedMs <= toMs - fromMs)) refuse('audit.bill_time', `${place}: ${missedMs} ms missed`)
  if (slot.term === bill.term && BigInt(amount) > cost(slot.rateHour, toMs - missedMs - fromMs)) refuse('audit.bill_amount', `${place}: more than its rate`)
  const known = life.generations.filter((one) => digest === undefined || one.digest === digest)
  const limits = known.map(({ manifest }) => workloadOf(manifest, slot.name)?.time_limit_s).filter((it) => it !== undefined)
  const limitMs = limits.includes(0) ? 0 : Math.max(0, ...limits) * 1000
  if (limitMs !== 0 && toMs - fromMs - missedMs > limitMs) refuse('audit.bill_time', `${place}: longer than its time limit`)
  if (amount < 0) refuse('audit.bill_amount', `${place}: below zero`)
}

/** [E5] Each is paid by the farmer of the term's node to the consumer, and no more than was owed. */
export function checkPenalties (life) {
  const { deployment, slots, penalties, receipts } = life.records
  for (const [place, found] of penalties) {
    const { slot, term, payer, payee, node, amount, owed } = found
    const wrong = (detail) => refuse('audit.penalty', `${place}: ${detail}`)
    if (`${slot} ${term}` !== place || payer !== farmerOf(life, node) || payee !== deployment.consumer) wrong('of another than its farmer')
    const record = slots.get(place.split(' ')[0])
    const isKnown = record.term === Number(place.split(' ')[1])
    if (!(amount >= 0 && amount <= owed) || (isKnown && BigInt(owed) !== cost(record.rateHour, PENALTY_MS))) wrong(`${amount} of ${owed}`)
    if (receipts.get(place).some((receipt) => receipt.node !== node)) wrong('another node held it')
  }
}

/** [D12] What the records say follows from the transactions, in their order. */
export function checkDisputes (life) {
  const found = []
  for (const { tag, body, sender, timeMs } of life.txs) {
    if (tag !== 'dispute.open' && tag !== 'dispute.close') continue
    if (body[0] !== life.deployment) refuse('audit.foreign', 'a dispute about another deployment')
    if (tag === 'dispute.open') {
      const [, slot, term, says] = body
      found.push({ number: found.length, opener: sender, slot, term, says, openedMs: timeMs, closedMs: 0, closing: '' })
      continue
    }
    const mine = found[body[1]]
    if (mine?.opener !== sender) refuse('audit.disputes', 'closed by another than its opener')
    Object.assign(mine, { closedMs: timeMs, closing: body[2] })
  }
  if (JSON.stringify(found) !== JSON.stringify(life.records.disputes)) refuse('audit.disputes', 'the records differ')
}
