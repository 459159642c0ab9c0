// An audit file, checked by one who holds genesis.json alone and no network: docs/wire.md, "Audit files".
import { checkAgreement } from './agreement.js'
import { checkApprovals, checkRelease, checkSignoff } from './approvals.js'
import { openTx } from './chain.js'
import { openDocument } from './documents.js'
import { expand } from './expand.js'
import { canonical } from './json.js'
import { decodeExact, struct } from './msgpack.js'
import { replay } from './organisations.js'
import { hexed, organisationsOf, readRecords } from './records.js'
import { Refused } from './refused.js'
import { isIncluded } from './tree.js'
import { Trust } from './trust.js'
import { checkUpdates } from './updates.js'
import { checkBills, checkDisputes, checkOrder, checkPenalties, checkReceipts, checkTerms } from './work.js'

const FORMAT = 'gridpact-audit/4'

const refuse = (rule, detail) => { throw new Refused(rule, detail) }

/** Blocks of the file, final and in order: { header, txs }. */
function openBlocks (trust, given) {
  const blocks = []
  for (const block of given) {
    const { finality, txs } = struct(block, 'audit', 'finality:list', 'txs:list')
    const header = trust.final(finality)
    if (blocks.length > 0 && header.height <= blocks.at(-1).header.height) refuse('audit.order', `height ${header.height}`)
    if (txs.length === 0) refuse('audit.order', `height ${header.height} shows no transaction`)
    blocks.push({ header, txs })
  }
  if (blocks.length === 0) refuse('audit.incomplete', 'no blocks')
  return blocks
}

/** The signed document that a transaction carries; null: none. */
function documentOf ({ tag, body }) {
  if (tag === 'approval.decide') return openDocument(body[0], 'approval')
  if (tag === 'contract.publish') return openDocument(body[0], 'contract')
  return tag === 'slot.report' ? openDocument(body[0], 'receipt') : null
}

/** Every transaction of the file at its place: { height, timeMs, id, sender, tag, body, document }, bytes in hex. */
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
      const tx = opened(chainId, raw)
      if (tx.expires < header.height) refuse('audit.expired', `height ${header.height}`)
      const { id, sender, tag, body } = tx
      const document = documentOf(tx)
      found.push({ height: header.height, timeMs: header.timeMs, id: hexed(id), sender: hexed(sender), tag, body: hexed(body), document })
    }
  }
  if (new Set(found.map(({ id }) => id)).size !== found.length) refuse('audit.order', 'a transaction appears twice')
  return found
}

function opened (chainId, raw) {
  try {
    return openTx(chainId, raw)
  } catch (error) {
    if (error instanceof Refused && error.rule === 'tx.signature') refuse('audit.signature')
    throw error
  }
}

/** The order's manifest and each update's, as their contracts expand: { number, asked, contract, manifest, digest }. */
function generationsOf (txs, deployment) {
  const published = new Map()
  const found = []
  if (!txs.some(({ id }) => id === deployment)) refuse('audit.incomplete', 'the order is missing')
  for (const tx of txs) {
    if (tx.tag === 'contract.publish') {
      published.set(tx.document.document, tx)
      continue
    }
    if (found.length === 0 && tx.id !== deployment) refuse('audit.order', 'something comes before the order')
    if (tx.tag !== 'deployment.order' && tx.tag !== 'deployment.update') continue
    const isUpdate = tx.tag === 'deployment.update'
    if (isUpdate !== (found.length > 0)) refuse('audit.order', 'it does not begin with one order')
    if (isUpdate && tx.body[0] !== deployment) refuse('audit.foreign', 'an update of another deployment')
    const [id, parameters, roles, manifest] = isUpdate ? tx.body.slice(2, 6) : tx.body
    const { document: contract, sender } = published.get(id) ?? refuse('audit.incomplete', 'the ordered contract is missing')
    if (contract.signer !== sender) refuse('audit.contract', 'published by another than its author')
    const made = expand(contract, (found[0]?.asked ?? tx).sender, parameters, roles)
    if (made.digest !== manifest) refuse('audit.manifest', `it expands to ${made.digest}`)
    found.push({ number: found.length, asked: tx, contract, ...made })
  }
  if (found.length === 0) refuse('audit.incomplete', 'the order is missing')
  const used = new Set(found.map(({ contract }) => contract.document))
  if (used.size !== published.size) refuse('audit.order', 'a contract that nobody ordered')
  return found
}

/** [N1] to [N6] What each organisation that holds a role was after each of its deeds. */
function checkOrganisations (life) {
  for (const id of organisationsOf(life.generations.map(({ manifest }) => manifest))) {
    const { record, deeds } = life.records.organisations.get(id)
    try {
      const history = replay(life.chainId, deeds)
      if (history.length === 0 || record.id !== id || !isSame(history.at(-1), record)) refuse('audit.organisation', 'its deeds lead elsewhere')
      life.histories.set(id, history)
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      refuse('audit.organisation', `${id}: ${error.rule} ${error.message}`)
    }
  }
}

function isSame (one, other) {
  const plain = ({ seats, ...rest }) => canonical({ ...rest, seats: seats.map(({ holds, ...seat }) => ({ ...seat, holds: Object.fromEntries(holds) })) })
  return plain(one).equals(plain(other))
}

/** What a file proves, for people: throws Refused with the first broken rule. */
export function verifyAudit (genesis, data) {
  const file = struct(decodeExact(data, 'audit'), 'audit', 'format:str', 'chainId:str', 'deployment:bin', 'epochs:list',
    'blocks:list', 'anchor:list', 'records:list')
  const { chainId, records: given } = file
  const deployment = hexed(file.deployment)
  if (file.format !== FORMAT) refuse('audit.format', file.format)
  if (chainId !== genesis.chainId) refuse('audit.foreign_chain', chainId)
  const trust = new Trust(genesis)
  for (const proof of file.epochs) trust.advance(proof)
  const anchor = trust.final(file.anchor)
  if (anchor.set !== trust.sets.at(-1)) refuse('light.surplus', `epoch ${anchor.epoch}`)
  const blocks = openBlocks(trust, file.blocks)
  if (blocks.at(-1).header.height > anchor.stateHeight) refuse('audit.anchor', 'a block is younger than the records')
  const all = transactions(chainId, blocks)
  const generations = generationsOf(all, deployment)
  const txs = all.filter(({ tag }) => tag !== 'contract.publish')
  const documents = txs.filter(({ tag }) => tag === 'approval.decide').map(({ document }) => document.document)
  const records = readRecords(anchor.stateRoot, deployment, generations.map(({ manifest }) => manifest), documents, given)
  const inForce = generations[records.deployment.generation]
  const life = { chainId, deployment, anchor, generations, txs, records, inForce, order: generations[0].asked, histories: new Map(), suspended: new Set() }
  life.stoodStill = generations.some(({ manifest }) => manifest.terms.grace_s !== 0)
  checkOrder(life)
  checkUpdates(life)
  checkOrganisations(life)
  const told = checkApprovals(life)
  for (const check of [checkReceipts, checkTerms, checkBills, checkAgreement, checkPenalties, checkDisputes, checkSignoff, checkRelease]) check(life)
  const { name, version } = inForce.manifest
  const { status, spent, escrow, funded, approvedMs, signedOffMs, releasedMs } = records.deployment
  return {
    deployment, contract: `${name}@${version}`, manifest: inForce.digest, status,
    epochs: file.epochs.length, blocks: blocks.length, txs: all.length, records: given.length, organisations: life.histories.size,
    receipts: [...records.receipts.values()].flat().length, spent, escrow, funded, approved_ms: approvedMs, signed_off_ms: signedOffMs,
    released_ms: releasedMs, ...told
  }
}
