// An audit file, checked by one who holds genesis.json alone and no network: docs/wire.md, "Audit files".
import { checkCertificate, decodeHeader, openSet, openTx } from './chain.js'
import { openApproval, openDocument } from './documents.js'
import { hashTagged } from './keys.js'
import { decodeExact, struct } from './msgpack.js'
import { judge, ruleOf, whole } from './policy.js'
import { Refused } from './refused.js'
import { isIncluded, proves } from './tree.js'

const FORMAT = 'gridpact-audit/3'
const ACTS = ['deploy', 'signoff', 'delete', 'update', 'release']
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

/** Who holds each role: by the contract, or by the order. Keys in hex, ascending. */
function holders (contract, order) {
  const roles = new Map()
  for (const role of contract.roles ?? []) {
    if (role.organisation !== undefined) refuse('audit.organisation', 'not read by this program')
    roles.set(role.name, [...(role.bind === 'order' ? order.body[2].get(role.name) ?? [] : role.keys)].sort())
  }
  return roles
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

  read (roles, policies, documents) {
    const id = this.deployment
    const record = this.must('deployment/', id)
    const slots = record[16].map((name) => this.must('slot/', id, '/', name))
    const keys = new Set([...roles.values()].flat())
    for (const act of ACTS) for (const key of namedKeys(ruleOf(policies, act))) keys.add(key)
    const approvals = []
    for (const act of ACTS) {
      for (const key of [...keys].sort()) approvals.push([act, key, this.get('approval/', id, `/${act}/`, Buffer.from(key, 'hex'))])
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
    const fee = this.get('bill/', id, '//', be(0), be(0))
    for (const receipt of receipts) nodes.add(hex(receipt[3]))
    for (const slot of slots) if (slot[4].length > 0) nodes.add(hex(slot[4]))
    const farms = new Set([...nodes].sort().map((key) => this.must('node/', Buffer.from(key, 'hex'))[1]))
    for (const farm of [...farms].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))) this.must('farm/', farm)
    for (let n = 0; n < record[23]; n++) this.must('dispute/', id, '/', be(n))
    if (this.next !== this.records.length) refuse('audit.surplus', `${this.records.length - this.next} more`)
    return { record, slots, approvals, accepted, receipts, bills: fee === null ? bills : [...bills, fee] }
  }
}

/** The last decision of each signer for each act, as `${act}/${signer}`; all of them are about this manifest. */
function decisions (chainId, deployment, manifest, txs) {
  const last = new Map()
  for (const tx of txs) {
    if (tx.tag !== 'approval.decide') continue
    const { document, signer, subject, predicate } = openApproval(chainId, tx.body[0])
    if (predicate.deployment !== hex(deployment) || subject !== hex(manifest)) refuse('audit.foreign', document)
    const said = { document, signer, role: predicate.role, decision: predicate.decision, timeMs: tx.timeMs, expiresMs: predicate.expires_ms }
    last.set(`${predicate.act}/${signer}`, said)
  }
  return last
}

function sameDecisions (records, last) {
  let count = 0
  for (const [act, key, record] of records) {
    const said = last.get(`${act}/${key}`)
    const isSame = record === null ? said === undefined : said !== undefined && hex(record[4]) === said.document && record[3] === said.decision
    if (!isSame) refuse('audit.approval_record', `${act} ${key.slice(0, 10)}`)
    count += record === null ? 0 : 1
  }
  if (count !== last.size) refuse('audit.not_a_stakeholder', 'a decision by a key that holds no role')
}

/** What was in force at a time: of each signer the last decision up to it. */
function standing (chainId, txs, act, atMs) {
  const last = new Map()
  for (const tx of txs) {
    if (tx.tag !== 'approval.decide' || tx.timeMs > atMs) continue
    const { signer, predicate } = openApproval(chainId, tx.body[0])
    const { role, decision, expires_ms: expiresMs } = predicate
    if (predicate.act === act) last.set(signer, { signer, role, decision, expiresMs, timeMs: tx.timeMs })
  }
  return [...last.values()]
}

function money (found) {
  const [spent, escrow, funded] = [found.record[8], found.record[7], found.record[20]]
  const total = found.bills.reduce((sum, bill) => sum + BigInt(bill[5]), 0n)
  if (total !== BigInt(spent)) refuse('audit.bills', `bills make ${total}, the escrow paid ${spent}`)
  if (BigInt(spent) + BigInt(escrow) > BigInt(funded)) refuse('audit.escrow', `${escrow} left of ${funded} after ${spent}`)
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
  const [published, order] = txs
  if (published.tag !== 'contract.publish' || order?.tag !== 'deployment.order' || hex(order.id) !== hex(file.deployment)) {
    refuse('audit.incomplete', 'the contract and its order come first')
  }
  const contract = openDocument(published.body[0], 'contract')
  if (contract.document !== hex(order.body[0])) refuse('audit.incomplete', 'the ordered contract is missing')
  if (contract.signer !== hex(published.sender)) refuse('audit.contract', 'published by another than its author')
  const { policies } = contract.predicate.contract
  const roles = holders(contract.predicate.contract, order)
  const manifest = order.body[3]
  const last = decisions(file.chainId, file.deployment, manifest, txs)
  const documents = txs.filter((tx) => tx.tag === 'approval.decide').map((tx) => Buffer.from(openApproval(file.chainId, tx.body[0]).document, 'hex'))
  const found = new Records(anchor.stateRoot, file.deployment, file.records).read(roles, policies, documents)
  if (found.accepted !== documents.length) refuse('audit.not_accepted', 'an approval was never accepted')
  const expected = [file.deployment, order.body[0], manifest, order.sender].map(hex).join()
  if (found.record.slice(0, 4).map(hex).join() !== expected) refuse('audit.order_record', 'not what the order asked for')
  sameDecisions(found.approvals, last)
  for (const receipt of found.receipts) {
    const document = openDocument(receipt[5], 'receipt')
    if (document.signer !== hex(receipt[3]) || document.subject !== hex(manifest)) refuse('audit.receipt_signer', receipt[1])
  }
  const approvedMs = found.record[11]
  const at = (act, ms) => judge(policies, act, roles, contract.signer, hex(order.sender), standing(file.chainId, txs, act, ms), ms)
  const whenApproved = approvedMs ? at('deploy', approvedMs) : at('deploy', anchor.timeMs)
  if (approvedMs ? whenApproved === 'open' : whenApproved === 'satisfied') refuse('audit.approved_time', whenApproved)
  return {
    deployment: hex(file.deployment), contract: `${contract.predicate.contract.name}@${contract.predicate.contract.version}`,
    manifest: hex(manifest), status: found.record[5], epochs: file.epochs.length, blocks: blocks.length, txs: txs.length,
    records: file.records.length, approvals: last.size, receipts: found.receipts.length, ...money(found),
    approved_ms: approvedMs, policy: whenApproved, now: Object.fromEntries(ACTS.map((act) => [act, at(act, anchor.timeMs)]))
  }
}
