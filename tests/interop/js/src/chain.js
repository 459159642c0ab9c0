// Blocks, certificates and transactions, checked by one who holds genesis.json alone: docs/wire.md, "Blocks".
import { readFileSync } from 'node:fs'
import { canonical } from './json.js'
import { hashTagged, sha256, verify } from './keys.js'
import { decodeExact, encode, struct } from './msgpack.js'
import { Refused } from './refused.js'

const FINAL = 3
const PATH_MAX = 256 // headers between a block and the certificate that covers it
const CONSENSUS = { view_timeout_ms: 1500, view_timeout_max_ms: 15000, alpha_percent: 20, idle_ms: 1000 }

/** Who votes in an epoch, from the encoded set. Throws Refused. */
export function openSet (data) {
  const { epoch, members } = struct(decodeExact(data, 'validators'), 'validators', 'epoch:int', 'members:list')
  const validators = members.map((it) => struct(it, 'validators', 'key:bin', 'weight:int', 'moniker:str'))
  const total = validators.reduce((sum, { weight }) => sum + weight, 0)
  return { epoch, validators, hash: sha256(data), quorum: Math.floor((2 * total) / 3) + 1 }
}

/** What a genesis file gives: chain id, hash, and the validators of epoch 0. */
export class Genesis {
  constructor (file) {
    const text = JSON.parse(readFileSync(file, 'utf8'))
    const whole = { limits: 5, ...text, consensus: { ...CONSENSUS, ...text.consensus } }
    this.chainId = text.chain_id
    this.hash = hashTagged('genesis/1', canonical(whole))
    this.set = openSet(encode([0, text.validators.map((v) => [Buffer.from(v.key, 'hex'), v.weight, v.moniker])]))
  }
}

/** A header's fields, its hash, and the set that signs it; `sets` by epoch. Throws Refused. */
export function decodeHeader (chainId, sets, data) {
  const header = struct(decodeExact(data, 'header'), 'header',
    'chainId:str', 'epoch:int', 'height:int', 'view:int', 'parentView:int', 'parentHash:bin', 'timeMs:int',
    'proposer:bin', 'stateHeight:int', 'stateRoot:bin', 'validators:bin', 'nextValidators:bin', 'batches:list')
  if (header.chainId !== chainId) throw new Refused('light.foreign_chain', header.chainId)
  const set = sets[header.epoch]
  if (set === undefined) throw new Refused('light.unknown_epoch', `epoch ${header.epoch}`)
  if (!set.hash.equals(header.validators)) throw new Refused('light.other_validators', `height ${header.height}`)
  if (header.batches.some((digest) => !(digest instanceof Uint8Array) || digest.length !== 32)) {
    throw new Refused('header.batches', `height ${header.height}`)
  }
  return { ...header, set, isBoundary: !set.hash.equals(header.nextValidators), hash: hashTagged('block/1', data) }
}

/** The weight of those who signed, when it is a quorum for a Final statement of this header. Throws Refused. */
export function checkCertificate (header, data) {
  const certificate = struct(decodeExact(data, 'certificate'), 'certificate',
    'statement:list', 'bitmap:bin', 'signatures:list')
  const statement = struct(certificate.statement, 'certificate', 'kind:int', 'epoch:int', 'view:int', 'block:bin')
  if (statement.kind !== FINAL) throw new Refused('light.not_final', `kind ${statement.kind}`)
  if (!header.hash.equals(statement.block) || statement.view !== header.view) {
    throw new Refused('light.other_block', 'the certificate names another block')
  }
  if (statement.epoch !== header.epoch) throw new Refused('certificate.epoch', `${statement.epoch}`)
  const { bitmap, signatures } = certificate
  const { validators, quorum } = header.set
  const signers = []
  for (let i = 0; i < bitmap.length * 8; i++) if ((bitmap[i >> 3] >> (i & 7)) & 1) signers.push(i)
  const isFit = bitmap.length === (validators.length + 7) >> 3 && signers.every((i) => i < validators.length)
  if (!isFit || signers.length !== signatures.length || signatures.some((s) => !(s instanceof Uint8Array))) {
    throw new Refused('certificate.malformed', 'bitmap and signatures do not match')
  }
  const weight = signers.reduce((sum, i) => sum + validators[i].weight, 0)
  if (weight < quorum) throw new Refused('certificate.no_quorum', `${weight} of ${quorum}`)
  const message = encode(certificate.statement)
  signers.forEach((member, i) => {
    if (!verify(validators[member].key, 'vote/1', header.chainId, message, signatures[i])) {
      throw new Refused('certificate.signature', `member ${member}`)
    }
  })
  return weight
}

/** The transactions of an encoded batch, and the digest that names it. Throws Refused. */
export function decodeBatch (data) {
  const { txs } = struct(decodeExact(data, 'batch'), 'batch', 'txs:list')
  if (txs.length === 0 || txs.some((tx) => !(tx instanceof Uint8Array))) throw new Refused('batch.size')
  let level = txs.map((tx) => sha256('gridpact/batchtx/1\0\0', tx))
  while (level.length > 1) {
    const above = []
    for (let i = 0; i + 1 < level.length; i += 2) above.push(sha256('gridpact/batchtx/1\0\x01', level[i], level[i + 1]))
    if (level.length % 2 === 1) above.push(level.at(-1)) // a last node without a sibling moves up
    level = above
  }
  const count = Buffer.alloc(4)
  count.writeUInt32BE(txs.length)
  return { txs, digest: hashTagged('batch/1', Buffer.concat([count, level[0]])) }
}

/** A signed transaction: id, sender, tag and fields of its body. Throws Refused. */
export function openTx (chainId, raw) {
  const { payload, signature } = struct(decodeExact(raw, 'tx'), 'tx', 'payload:bin', 'signature:bin')
  const tx = struct(decodeExact(payload, 'tx'), 'tx', 'chainId:str', 'sender:bin', 'expires:int', 'salt:bin', 'body:list')
  if (tx.chainId !== chainId) throw new Refused('tx.foreign_chain', tx.chainId)
  if (!verify(tx.sender, 'tx/1', chainId, payload, signature)) throw new Refused('tx.signature')
  const [tag, ...body] = tx.body
  return { id: hashTagged('txid/1', payload), sender: tx.sender, expires: tx.expires, tag, body }
}

/** A transaction as it travels, and its id. */
export function signTx (key, chainId, expires, salt, body) {
  const payload = encode([chainId, key.public, expires, salt, body])
  return { id: hashTagged('txid/1', payload), raw: encode([payload, key.sign('tx/1', chainId, payload)]) }
}

/** The chain as this peer has proved it, from genesis on. */
export class Chain {
  constructor (genesis) {
    this.chainId = genesis.chainId
    this.tip = { height: 0, hash: genesis.hash, view: 0 }
    this.sets = [genesis.set] // by epoch
    this.changes = new Map() // sha256 in hex -> encoded validator set that a transaction proposed
    this.heights = new Map() // transaction id in hex -> height
    this.bodies = new Map() // the same, of orders and contracts: { tag, body }
  }

  /** Takes an answer to "blocks", all or nothing; `fetchBatch(digest)` gives a batch that came without. */
  async extend (answer, fetchBatch) {
    const found = []
    const [sets, changes] = [[...this.sets], new Map(this.changes)]
    let last = this.tip
    let open = 0 // blocks since the last one with a certificate
    for (const item of decodeExact(answer, 'range')) {
      const stored = struct(item, 'range', 'header:bin', 'batches:list', 'certificate:bin', 'path:list')
      const header = decodeHeader(this.chainId, sets, stored.header)
      if (header.set !== sets.at(-1)) throw new Refused('light.other_validators', `epoch ${header.epoch} has ended`)
      if (header.height !== last.height + 1 || !last.hash.equals(header.parentHash)) {
        throw new Refused('range.order', `height ${header.height} does not follow ${last.height}`)
      }
      const txs = await this.#transactions(header, stored.batches, fetchBatch)
      for (const { tag, body } of txs) if (tag === 'validators.change') changes.set(sha256(body[0]).toString('hex'), body[0])
      open += 1
      if (stored.certificate.length > 0) {
        checkCertificate(this.#certified(sets, header, stored.path), stored.certificate)
        open = 0
      } else if (header.isBoundary || open > PATH_MAX) throw new Refused('range.certificate', `height ${header.height}`)
      if (header.isBoundary) sets.push(nextSet(header, changes))
      last = header
      found.push([header.height, txs])
    }
    if (open > 0) throw new Refused('range.certificate', 'nothing makes the end final')
    for (const [height, txs] of found) for (const tx of txs) this.#keep(height, tx)
    Object.assign(this, { tip: last, sets, changes })
    return found.length
  }

  /** The header that the certificate names: of an epoch's last block it may be one above it, all of them empty. */
  #certified (sets, header, path) {
    if (path.length > 0 && !header.isBoundary) throw new Refused('range.path', `height ${header.height}`)
    if (path.length > PATH_MAX) throw new Refused('light.path_too_long', `${path.length}`)
    let last = header
    for (const data of path) {
      const child = decodeHeader(this.chainId, sets, data)
      if (child.height !== last.height + 1 || !last.hash.equals(child.parentHash)) throw new Refused('light.broken_path')
      if (child.batches.length > 0 || !last.nextValidators.equals(child.nextValidators)) throw new Refused('light.tail')
      last = child
    }
    return last
  }

  /** The block's transactions: what nobody signed may stand there, and is skipped when it executes. */
  async #transactions (header, batches, fetchBatch) {
    const parts = batches.length > 0 ? batches : await Promise.all(header.batches.map(fetchBatch))
    const opened = parts.map(decodeBatch)
    if (opened.length !== header.batches.length || opened.some((b, i) => !b.digest.equals(header.batches[i]))) {
      throw new Refused('range.batches', `height ${header.height}`)
    }
    return opened.flatMap((batch) => batch.txs).flatMap((raw) => {
      try {
        return [openTx(this.chainId, raw)]
      } catch (error) {
        if (error instanceof Refused) return []
        throw error
      }
    })
  }

  #keep (height, tx) {
    const id = tx.id.toString('hex')
    this.heights.set(id, height)
    if (tx.tag === 'deployment.order' || tx.tag === 'contract.publish') this.bodies.set(id, tx)
  }
}

/** The set that a boundary block names, as some transaction before it brought it. Throws Refused. */
function nextSet (header, changes) {
  const data = changes.get(header.nextValidators.toString('hex'))
  const set = data === undefined ? undefined : openSet(data)
  if (set?.epoch !== header.epoch + 1) throw new Refused('light.next_set', `height ${header.height}`)
  return set
}
