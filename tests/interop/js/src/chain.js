// Blocks, certificates and transactions, checked by one who holds genesis.json alone: docs/wire.md, "Blocks".
import { readFileSync } from 'node:fs'
import { canonical } from './json.js'
import { hashTagged, sha256, verify } from './keys.js'
import { decodeExact, encode, struct } from './msgpack.js'
import { Refused } from './refused.js'

const FINAL = 3
const PATH_MAX = 256 // headers between a block and the certificate that covers it
const CONSENSUS = { view_timeout_ms: 1500, view_timeout_max_ms: 15000, alpha_percent: 20, idle_ms: 1000 }

/** What a genesis file gives: chain id, hash, validators by weight, their quorum. */
export class Genesis {
  constructor (file) {
    const text = JSON.parse(readFileSync(file, 'utf8'))
    const whole = { limits: 1, ...text, consensus: { ...CONSENSUS, ...text.consensus } }
    this.chainId = text.chain_id
    this.hash = hashTagged('genesis/1', canonical(whole))
    this.validators = text.validators.map((v) => ({ ...v, key: Buffer.from(v.key, 'hex') }))
    const members = this.validators.map((v) => [v.key, v.weight, v.moniker])
    this.validatorsHash = sha256(encode([0, members]))
    const total = this.validators.reduce((sum, v) => sum + v.weight, 0)
    this.quorum = Math.floor((2 * total) / 3) + 1
  }
}

/** A header's fields and its hash. Throws Refused. */
export function decodeHeader (genesis, data) {
  const header = struct(decodeExact(data, 'header'), 'header',
    'chainId:str', 'epoch:int', 'height:int', 'view:int', 'parentView:int', 'parentHash:bin', 'timeMs:int',
    'proposer:bin', 'stateHeight:int', 'stateRoot:bin', 'validators:bin', 'nextValidators:bin', 'batches:list')
  if (header.chainId !== genesis.chainId) throw new Refused('light.foreign_chain', header.chainId)
  if (header.epoch !== 0 || !genesis.validatorsHash.equals(header.validators)) {
    throw new Refused('light.other_validators', `height ${header.height}`)
  }
  if (header.batches.some((digest) => !(digest instanceof Uint8Array) || digest.length !== 32)) {
    throw new Refused('header.batches', `height ${header.height}`)
  }
  return { ...header, hash: hashTagged('block/1', data) }
}

/** The weight of those who signed, when it is a quorum for a Final statement of this header. Throws Refused. */
export function checkCertificate (genesis, header, data) {
  const certificate = struct(decodeExact(data, 'certificate'), 'certificate',
    'statement:list', 'bitmap:bin', 'signatures:list')
  const statement = struct(certificate.statement, 'certificate', 'kind:int', 'epoch:int', 'view:int', 'block:bin')
  if (statement.kind !== FINAL) throw new Refused('light.not_final', `kind ${statement.kind}`)
  if (!header.hash.equals(statement.block) || statement.view !== header.view) {
    throw new Refused('light.other_block', 'the certificate names another block')
  }
  if (statement.epoch !== header.epoch) throw new Refused('certificate.epoch', `${statement.epoch}`)
  const { bitmap, signatures } = certificate
  const size = genesis.validators.length
  const signers = []
  for (let i = 0; i < bitmap.length * 8; i++) if ((bitmap[i >> 3] >> (i & 7)) & 1) signers.push(i)
  const isFit = bitmap.length === (size + 7) >> 3 && signers.every((i) => i < size)
  if (!isFit || signers.length !== signatures.length || signatures.some((s) => !(s instanceof Uint8Array))) {
    throw new Refused('certificate.malformed', 'bitmap and signatures do not match')
  }
  const weight = signers.reduce((sum, i) => sum + genesis.validators[i].weight, 0)
  if (weight < genesis.quorum) throw new Refused('certificate.no_quorum', `${weight} of ${genesis.quorum}`)
  const message = encode(certificate.statement)
  signers.forEach((member, i) => {
    if (!verify(genesis.validators[member].key, 'vote/1', genesis.chainId, message, signatures[i])) {
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
    this.genesis = genesis
    this.tip = { height: 0, hash: genesis.hash, view: 0 }
    this.heights = new Map() // transaction id in hex -> height
    this.bodies = new Map() // the same, of orders and contracts: { tag, body }
  }

  /** Takes an answer to "blocks", all or nothing; `fetchBatch(digest)` gives a batch that came without. */
  async extend (answer, fetchBatch) {
    const found = []
    let last = this.tip
    let open = 0 // blocks since the last one with a certificate
    for (const stored of decodeExact(answer, 'range')) {
      const { header: bytes, batches, certificate } =
        struct(stored, 'range', 'header:bin', 'batches:list', 'certificate:bin')
      const header = decodeHeader(this.genesis, bytes)
      if (header.height !== last.height + 1) throw new Refused('range.order', `height ${header.height}`)
      if (!last.hash.equals(header.parentHash) || header.parentView !== last.view) {
        throw new Refused('range.parent', `height ${header.height}`)
      }
      const parts = batches.length > 0 ? batches : await Promise.all(header.batches.map(fetchBatch))
      const opened = parts.map(decodeBatch)
      if (opened.length !== header.batches.length || opened.some((b, i) => !b.digest.equals(header.batches[i]))) {
        throw new Refused('range.batches', `height ${header.height}`)
      }
      open += 1
      if (certificate.length > 0) {
        checkCertificate(this.genesis, header, certificate)
        open = 0
      } else if (open > PATH_MAX) throw new Refused('light.path_too_long', `height ${header.height}`)
      last = header
      found.push([header.height, opened.flatMap((batch) => batch.txs)])
    }
    if (open > 0) throw new Refused('range.uncertified', 'no certificate covers the end')
    for (const [height, txs] of found) for (const raw of txs) this.#keep(height, raw)
    this.tip = last
    return found.length
  }

  #keep (height, raw) {
    let tx
    try {
      tx = openTx(this.genesis.chainId, raw)
    } catch (error) {
      if (error instanceof Refused) return // a block may hold what nobody signed: it is skipped when it executes
      throw error
    }
    const id = tx.id.toString('hex')
    this.heights.set(id, height)
    if (tx.tag === 'deployment.order' || tx.tag === 'contract.publish') this.bodies.set(id, tx)
  }
}
