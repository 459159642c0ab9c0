// An audit file, checked by one who holds genesis.json alone and no network: docs/wire.md, "Audit files".
import { checkCertificate, decodeHeader, openSet, openTx } from './chain.js'
import { openApproval, openDocument } from './documents.js'
import { hashTagged } from './keys.js'
import { decodeExact, struct } from './msgpack.js'
import { judge, ruleOf, whole } from './policy.js'
import { Refused } from './refused.js'
import { isIncluded, proves } from './tree.js'

const FORMAT = 'gridpact-audit/4'
const PLACES = ['deploy', 'signoff', 'delete', 'release'] // where decisions stand; those on an update under deploy
const UNAPPROVED = ['awaiting_approval', 'expired', 'cancelled', 'rejected']
const PATH_MAX = 256

const be = (number) => {
  const out = Buffer.alloc(8)
  out.writeBigUInt64BE(BigInt(number))
  return out
}
const hex = (bytes) => Buffer.from(bytes).toString('hex')
const refuse = (rule, detail) => { throw new Refused(rule, detail) }

/** Which set signs which epoch, and where each ended: grows from genesis over the file's proofs. */
class Trust {
  constructor (genesis) {
    this.chainId = genesis.chainId
    this.sets = [genesis.set]
    this.ends = []
  }

  /** The header of a finality proof. Throws Refused. */
  final (proof) {
    const { header: data, path, certificate } = struct(proof, 'audit', 'header:bin', 'path:list', 'certificate:bin')
    const header = decodeHeader(this.chainId, this.sets, data)
    if (path.length > PATH_MAX) refuse('light.path_too_long', `${path.length}`)
    let last = header
    for (const item of path) {
      const child = decodeHeader(this.chainId, this.sets, item)
      if (child.set !== header.set) refuse('light.other_validators', `height ${child.height}`)
      if (child.height !== last.height + 1 || !last.hash.equals(child.parentHash)) refuse('light.broken_path')
      const isTail = last.isBoundary && (child.batches.length > 0 || !last.nextValidators.equals(child.nextValidators))
      if (isTail) refuse('light.tail', `height ${child.height}`)
      last = child
    }
    checkCertificate(last, certificate)
    const end = this.ends[header.epoch]
    if (end !== undefined && header.height > end.height) refuse('light.above_boundary', `height ${header.height}`)
    return header
  }

  /** One epoch further. Throws Refused. */
  advance (proof) {
    const { nextSet, parent: data, finality } = struct(proof, 'audit', 'nextSet:bin', 'parent:bin', 'finality:list')
    const header = this.final(finality)
    if (header.set !== this.sets.at(-1)) refuse('light.other_validators', `epoch ${header.epoch}`)
    if (!header.isBoundary) refuse('light.no_boundary', `height ${header.height}`)
    const parent = decodeHeader(this.chainId, this.sets, data)
    const isChild = hashTagged('block/1', data).equals(header.parentHash) && header.height === parent.height + 1
    if (!isChild || parent.epoch !== header.epoch || parent.isBoundary) refuse('light.not_first', `height ${header.height}`)
    const set = openSet(nextSet)
    if (!set.hash.equals(header.nextValidators) || set.epoch !== header.epoch + 1) refuse('light.next_set')
    this.sets.push(set)
    this.ends.push(header)
  }
}

/** Every transaction of the file at its place: { height, timeMs, id, sender, tag, body }. */
function transactions (chainId, blocks) {
  const found = []
  for (const { header, txs } of blocks) {
    let former = [-1, -1]
    for (const item of txs) {
      const { batch, inclusion, raw } = struct(item, 'audit', 'batch:int', 'inclusion:list', 'raw:bin')
      const place = [batch, inclusion[0]]
      const follows = place[0] > former[0] || (place[0] === former[0] && place[1] > former[1])
      if (!follows || !(batch >= 0 && batch < header.batches.length)) refuse('audit.order', `height ${header.height}`)
      former = place
      if (!isIncluded(header.batches[batch], raw, inclusion)) refuse('audit.inclusion', `height ${header.height}`)
      const tx = openTx(chainId, raw)
      if (tx.expires < header.height) refuse('audit.expired', `height ${header.height}`)
      found.push({ ...tx, height: header.height, timeMs: header.timeMs })
    }
  }
  if (new Set(found.map((tx) => hex(tx.id))).size !== found.length) refuse('audit.order', 'a transaction appears twice')
  return found
}

/** Who holds each role: by the contract, or by the order or the update. Keys in hex, ascending. */
function holders (contract, bound) {
  const roles = new Map()
  for (const role of contract.roles ?? []) {
    if (role.organisation !== undefined) refuse('audit.organisation', 'not read by this program')
    roles.set(role.name, [...(role.bind === 'order' ? bound.get(role.name) ?? [] : role.keys)].sort())
  }
  for (const keys of roles.values()) {
    if (keys.some((key) => key.startsWith('organisation:'))) refuse('audit.organisation', 'not read by this program')
  }
  return roles
}

/** The order's manifest and each update's: { number, tx, contract, policies, roles, manifest (hex) }. */
function generationsOf (txs, deployment) {
  const published = new Map()
  const found = []
  const used = new Set()
  for (const tx of txs) {
    if (tx.tag === 'contract.publish') {
      const contract = openDocument(tx.body[0], 'contract')
      if (contract.signer !== hex(tx.sender)) refuse('audit.contract', 'published by another than its author')
      published.set(contract.document, contract)
      continue
    }
    if (found.length === 0 && hex(tx.id) !== hex(deployment)) refuse('audit.order', 'something comes before the order')
    if (tx.tag !== 'deployment.order' && tx.tag !== 'deployment.update') continue
    if ((tx.tag === 'deployment.order') !== (found.length === 0)) refuse('audit.order', 'it does not begin with one order')
    const isUpdate = tx.tag === 'deployment.update'
    if (isUpdate && hex(tx.body[0]) !== hex(deployment)) refuse('audit.foreign', 'an update of another deployment')
    const [id, bound, manifest] = isUpdate ? [tx.body[2], tx.body[4], tx.body[5]] : [tx.body[0], tx.body[2], tx.body[3]]
    const contract = published.get(hex(id)) ?? refuse('audit.incomplete', 'the ordered contract is missing')
    used.add(contract.document)
    const { policies } = contract.predicate.contract
    const roles = holders(contract.predicate.contract, bound)
    found.push({ number: found.length, tx, contract, policies, roles, manifest: hex(manifest) })
  }
  if (found.length === 0) refuse('audit.incomplete', 'the order is missing')
  if (used.size !== published.size) refuse('audit.order', 'a contract that nobody ordered')
  return found
}

function * namedKeys (given) {
  if (given === null) return
  const rule = whole(given)
  if (rule.key !== null) yield rule.key
  for (const entry of rule.weigh) if (entry.key !== null) yield entry.key
  for (const child of [...rule.all, ...rule.any]) yield * namedKeys(child)
}

/** All records, each proved present or absent, in the order that docs/wire.md gives. */
class Records {
  constructor (root, deployment, records) {
    Object.assign(this, { root, deployment, records, next: 0 })
  }

  get (...parts) {
    const key = Buffer.concat(parts.map((part) => Buffer.from(part)))
    if (this.next === this.records.length) refuse('audit.incomplete', `no proof for ${key.subarray(0, 40)}`)
    const { value, proof } = struct(this.records[this.next++], 'audit', 'value:any', 'proof:list')
    if (value !== null && !(value instanceof Uint8Array)) refuse('audit.malformed', 'value')
    if (!proves(this.root, key, value, proof)) refuse('audit.record', `${key.subarray(0, 40)}`)
    if (value === null) return null
    return value.length === 0 ? [] : decodeExact(value, 'record') // of a mark only its presence counts
  }

  must (...parts) {
    return this.get(...parts) ?? refuse('audit.incomplete', `${Buffer.from(parts[0])}`)
  }

  read (generations, documents) {
    const id = this.deployment
    const record = this.must('deployment/', id)
    const count = generations.length - 1
    if (Number(record[33]) !== count || !(record[32] >= 0 && record[32] <= count)) refuse('audit.incomplete', `${record[33]} updates`)
    const updates = generations.slice(1).map(({ number }) => this.must('update/', id, '/', be(number)))
    const slots = record[16].map((name) => this.must('slot/', id, '/', name))
    const keys = new Set(generations.flatMap(({ roles }) => [...roles.values()].flat()))
    for (const { policies } of generations) {
      for (const act of [...PLACES, 'update']) for (const key of namedKeys(ruleOf(policies, act))) keys.add(key)
    }
    const wasInForce = (number) => number === 0 || updates[number - 1][6] === 'done'
    const approvals = []
    for (const { number } of generations) {
      for (const place of wasInForce(number) ? PLACES : PLACES.slice(0, 1)) {
        const at = number === 0 ? place : `${place}@${number}`
        for (const key of [...keys].sort()) {
          approvals.push([`${at}/${key}`, this.get('approval/', id, `/${at}/`, Buffer.from(key, 'hex'))])
        }
      }
    }
    const accepted = documents.filter((document) => this.get('document/', id, '/', document) !== null).length
    const [receipts, bills, nodes] = [[], [], new Set()]
    for (const slot of slots) {
      for (let term = 1; term <= slot[3]; term++) {
        const name = `/${slot[1]}/`
        let receipt
        for (let n = 0; (receipt = this.get('receipt/', id, name, be(term), be(n))) !== null; n++) receipts.push(receipt)
        const bill = this.get('bill/', id, name, be(term), be(0))
        if (bill !== null) bills.push(bill)
        const penalty = this.get('penalty/', id, name, be(term))
        if (penalty !== null) nodes.add(hex(penalty[2]))
      }
    }
    for (const { number } of generations.filter((one) => wasInForce(one.number))) {
      const fee = this.get('bill/', id, '//', be(number), be(0))
      if (fee !== null) bills.push(fee)
    }
    for (const receipt of receipts) nodes.add(hex(receipt[3]))
    for (const slot of slots) if (slot[4].length > 0) nodes.add(hex(slot[4]))
    const farms = new Set([...nodes].sort().map((key) => this.must('node/', Buffer.from(key, 'hex'))[1]))
    for (const farm of [...farms].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))) this.must('farm/', farm)
    for (let n = 0; n < record[23]; n++) this.must('dispute/', id, '/', be(n))
    if (this.next !== this.records.length) refuse('audit.surplus', `${this.records.length - this.next} more`)
    return { record, updates, slots, approvals, accepted, receipts, bills }
  }
}

/** The last decision of each signer, by where it stands; each is about its manifest. */
function decisions (chainId, deployment, generations, txs) {
  const last = new Map()
  for (const tx of txs) {
    if (tx.tag !== 'approval.decide') continue
    const { document, signer, subject, predicate } = openApproval(chainId, tx.body[0])
    const about = generations[predicate.update]
    if (predicate.deployment !== hex(deployment) || subject !== about?.manifest) refuse('audit.foreign', document)
    const place = predicate.act === 'update' ? 'deploy' : predicate.act
    const at = predicate.update === 0 ? place : `${place}@${predicate.update}`
    last.set(`${at}/${signer}`, { document, decision: predicate.decision })
  }
  return last
}

function sameDecisions (records, last) {
  let count = 0
  for (const [place, record] of records) {
    const said = last.get(place)
    const isSame = record === null ? said === undefined : said !== undefined && hex(record[4]) === said.document && record[3] === said.decision
    if (!isSame) refuse('audit.approval_record', place)
    count += record === null ? 0 : 1
  }
  if (count !== last.size) refuse('audit.not_a_stakeholder', 'a decision by a key that holds no role')
}

/** What was in force at a time: of each signer the last decision up to it, for these acts, on this manifest. */
function standing (chainId, txs, acts, number, atMs) {
  const last = new Map()
  for (const tx of txs) {
    if (tx.tag !== 'approval.decide' || tx.timeMs > atMs) continue
    const { signer, predicate } = openApproval(chainId, tx.body[0])
    const { role, decision, update, expires_ms: expiresMs } = predicate
    if (!acts.includes(predicate.act) || update !== number) continue
    last.set(signer, { signer, role, decision, expiresMs, update, timeMs: tx.timeMs })
  }
  return [...last.values()]
}

/** Whose policies, of which act, an update must satisfy: those before it, and, where the signers change, after it. */
function sidesOf (former, next) {
  const signers = ({ roles, policies }) => JSON.stringify([[...roles], policies])
  return signers(former) === signers(next) ? [[former, 'update']] : [[former, 'update'], [next, 'deploy']]
}

/** Each update is what was asked for of what was in force; what is in force is what the last one brought. */
function checkUpdates (found, generations) {
  const { record, updates } = found
  let inForce = generations[0]
  let endedMs = 0
  updates.forEach((update, i) => {
    const { tx, manifest, contract, number } = generations[i + 1]
    const said = [update[1], update[2], update[3], update[4], update[5]].map(hex).join()
    const asked = [hex(tx.id), hex(tx.sender), inForce.manifest, manifest, contract.document].join()
    const isIts = said === asked && hex(tx.body[1]) === inForce.manifest && update[7] === tx.body[6] && update[9] === tx.timeMs
    const [status, approvedMs] = [update[6], update[13]]
    const isOpen = ['awaiting_approval', 'rolling', 'held'].includes(status)
    if (!isIts || tx.timeMs < endedMs || (approvedMs !== 0) === UNAPPROVED.includes(status) || (update[14] === 0) !== isOpen ||
      (isOpen && number !== updates.length)) refuse('audit.update_record', `update ${number}`)
    if (![hex(record[3]), hex(record[4])].includes(hex(tx.sender))) refuse('audit.foreign', `update ${number}`)
    if (status === 'done') inForce = generations[i + 1]
    endedMs = update[14]
  })
  const inRecord = [hex(record[2]), hex(record[1]), record[32]].join()
  if (inRecord !== [inForce.manifest, inForce.contract.document, inForce.number].join()) refuse('audit.order_record', 'not what was asked for is in force')
  return inForce
}

function money (found) {
  const [spent, escrow, funded] = [found.record[8], found.record[7], found.record[20]]
  const total = found.bills.reduce((sum, bill) => sum + BigInt(bill[5]), 0n)
  if (total !== BigInt(spent)) refuse('audit.bills', `bills make ${total}, the escrow paid ${spent}`)
  const returned = found.updates.reduce((sum, update) => sum + BigInt(update[17]), 0n)
  if (returned !== BigInt(found.record[38])) refuse('audit.escrow', `updates gave back ${returned}`)
  const left = BigInt(found.record[37]) - returned - BigInt(spent)
  if (BigInt(escrow) > left) refuse('audit.escrow', `${escrow} in escrow, ${left} left`)
  return { spent: Number(spent), escrow: Number(escrow), funded: Number(funded) }
}

/** What a file proves, for people: throws Refused with the first broken rule. */
export function verifyAudit (genesis, data) {
  const file = struct(decodeExact(data, 'audit'), 'audit', 'format:str', 'chainId:str', 'deployment:bin', 'epochs:list',
    'blocks:list', 'anchor:list', 'records:list')
  if (file.format !== FORMAT) refuse('audit.format', file.format)
  if (file.chainId !== genesis.chainId) refuse('audit.foreign_chain', file.chainId)
  const trust = new Trust(genesis)
  for (const proof of file.epochs) trust.advance(proof)
  const anchor = trust.final(file.anchor)
  if (anchor.set !== trust.sets.at(-1)) refuse('light.surplus', `epoch ${anchor.epoch}`)
  const blocks = file.blocks.map((block) => {
    const { finality, txs } = struct(block, 'audit', 'finality:list', 'txs:list')
    return { header: trust.final(finality), txs }
  })
  blocks.forEach(({ header, txs }, i) => {
    if (txs.length === 0 || (i > 0 && header.height <= blocks[i - 1].header.height)) refuse('audit.order', `height ${header.height}`)
  })
  if (blocks.length === 0) refuse('audit.incomplete', 'no blocks')
  if (blocks.at(-1).header.height > anchor.stateHeight) refuse('audit.anchor', 'a block is younger than the records')
  const txs = transactions(file.chainId, blocks)
  const generations = generationsOf(txs, file.deployment)
  const { tx: order } = generations[0]
  const last = decisions(file.chainId, file.deployment, generations, txs)
  const documents = txs.filter((tx) => tx.tag === 'approval.decide').map((tx) => Buffer.from(openApproval(file.chainId, tx.body[0]).document, 'hex'))
  const found = new Records(anchor.stateRoot, file.deployment, file.records).read(generations, documents)
  if (found.accepted !== documents.length) refuse('audit.not_accepted', 'an approval was never accepted')
  if (hex(found.record[0]) !== hex(file.deployment) || hex(found.record[3]) !== hex(order.sender)) refuse('audit.order_record', 'not what the order asked for')
  const inForce = checkUpdates(found, generations)
  sameDecisions(found.approvals, last)
  const begun = new Set(generations.filter(({ number }) => number === 0 || found.updates[number - 1][13] !== 0).map(({ manifest }) => manifest))
  for (const receipt of found.receipts) {
    const document = openDocument(receipt[5], 'receipt')
    if (document.signer !== hex(receipt[3]) || !begun.has(document.subject)) refuse('audit.receipt_signer', receipt[1])
  }
  const judged = ({ policies, roles, contract }, act, given, ms) =>
    judge({ ...policies, [act]: ruleOf(policies, act) }, act, roles, contract.signer, hex(order.sender), given, ms)
  const onUpdate = (update, ms) => sidesOf(generations.find(({ manifest }) => manifest === hex(update[3])), generations[update[0]])
    .map(([side, act]) => judged(side, act, standing(file.chainId, txs, ['deploy', 'update'], update[0], ms), ms))
  const approvedMs = found.record[11]
  const first = (ms) => judged(generations[0], 'deploy', standing(file.chainId, txs, ['deploy'], 0, ms), ms)
  const whenApproved = first(approvedMs || anchor.timeMs)
  if (approvedMs ? whenApproved === 'open' : whenApproved === 'satisfied') refuse('audit.approved_time', whenApproved)
  const updates = found.updates.map((update) => {
    const policy = onUpdate(update, update[13] || update[14] || anchor.timeMs)
    if (update[13] !== 0 && policy.includes('open')) refuse('audit.update_approval', `update ${update[0]}: ${policy}`)
    const { name, version } = generations[update[0]].contract.predicate.contract
    return { number: update[0], status: update[6], contract: `${name}@${version}`, manifest: hex(update[4]), approved_ms: update[13], policy }
  })
  const at = (place, ms) => {
    const [acts, act] = place === 'deploy' ? [['deploy', 'update'], found.record[35]] : [[place], place]
    return judged(inForce, act, standing(file.chainId, txs, acts, inForce.number, ms), ms)
  }
  const { name, version } = inForce.contract.predicate.contract
  return {
    deployment: hex(file.deployment), contract: `${name}@${version}`, manifest: inForce.manifest, status: found.record[5],
    epochs: file.epochs.length, blocks: blocks.length, txs: txs.length, records: file.records.length, approvals: last.size,
    receipts: found.receipts.length, ...money(found), approved_ms: approvedMs, policy: whenApproved,
    now: Object.fromEntries(PLACES.map((place) => [place, at(place, anchor.timeMs)])), updates
  }
}
