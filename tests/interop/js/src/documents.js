// Signed documents: DSSE over in-toto Statement v1. docs/wire.md, "Documents".
import { createHash } from 'node:crypto'
import { canonical, fields, parseExact } from './json.js'
import { sha256, verifyRaw } from './keys.js'
import { Refused } from './refused.js'

const PAYLOAD_TYPE = 'application/vnd.in-toto+json'
const STATEMENT = 'https://in-toto.io/Statement/v1'
const HEX_64 = /^[0-9a-f]{64}$/
const APPROVAL = {
  chain_id: 'string', deployment: 'string', act: 'string', role: 'string', decision: 'string',
  expires_ms: 'int', comment: 'string', made_ms: 'int', update: 'int'
}
const RECEIPT = {
  chain_id: 'string', deployment: 'string', contract: 'string', slot: 'string', term: 'int', node: 'string', status: 'string',
  time_ms: 'int', driver: 'string', level: 'string', isolation: 'object', artifacts: 'object', approvals: 'array', checks: 'int',
  endpoints: 'object', exit_code: 'any', results: 'object', commitment: 'string', nonce: 'string', usage: 'object',
  detail: 'string', secrets: 'string', egress: 'object'
}

/** What DSSE signs. */
export function pae (payload, type = PAYLOAD_TYPE) {
  return Buffer.concat([Buffer.from(`DSSEv1 ${type.length} ${type} ${payload.length} `), payload])
}

function fromBase64 (text) {
  const data = Buffer.from(text, 'base64')
  if (data.toString('base64') !== text) throw new Refused('document.not_canonical', 'base64')
  return data
}

const sshString = data => {
  const length = Buffer.alloc(4)
  length.writeUInt32BE(data.length)
  return Buffer.concat([length, Buffer.from(data)])
}

/** A plain signature, or an SSHSIG in the one form that is allowed: made again, and compared. */
export function isSigned (key, message, signature) {
  if (signature.length === 64) return verifyRaw(key, message, signature)
  const last = signature.subarray(-64)
  const typed = data => Buffer.concat([sshString('ssh-ed25519'), sshString(data)])
  const blob = [typed(key), 'gridpact', '', 'sha512', typed(last)].map(sshString)
  if (!Buffer.concat([Buffer.from('SSHSIG\0\0\0\x01'), ...blob]).equals(signature)) return false
  const digest = createHash('sha512').update(message).digest()
  return verifyRaw(key, Buffer.concat([Buffer.from('SSHSIG'), ...['gridpact', '', 'sha512', digest].map(sshString)]), last)
}

/** Who signed what: { document (its id), signer, subject, predicate } of an envelope of this kind. Throws Refused. */
export function openDocument (data, kind) {
  const envelope = fields(parseExact(data, 'envelope'), 'envelope',
    { payload: 'string', payloadType: 'string', signatures: 'array' })
  if (envelope.payloadType !== PAYLOAD_TYPE) throw new Refused('document.kind', envelope.payloadType)
  if (envelope.signatures.length !== 1) throw new Refused('document.signature', 'exactly one wanted')
  const { keyid, sig } = fields(envelope.signatures[0], 'signature', { keyid: 'string', sig: 'string' })
  if (!HEX_64.test(keyid)) throw new Refused('key.hex', keyid)
  const payload = fromBase64(envelope.payload)
  const statement = fields(parseExact(payload, 'payload'), 'payload',
    { _type: 'string', subject: 'array', predicateType: 'string', predicate: 'object' })
  if (statement._type !== STATEMENT || statement.predicateType !== `urn:gridpact:${kind}:v1`) {
    throw new Refused('document.kind', statement.predicateType)
  }
  if (statement.subject.length !== 1) throw new Refused('document.subject', 'exactly one wanted')
  const subject = fields(statement.subject[0], 'subject', { name: 'string', digest: 'object' })
  const { sha256: digest } = fields(subject.digest, 'digest', { sha256: 'string' })
  if (!HEX_64.test(digest)) throw new Refused('document.subject', digest)
  if (kind === 'approval') {
    const releases = statement.predicate.act === 'release'
    fields(statement.predicate, 'predicate', releases ? { ...APPROVAL, results: 'string' } : APPROVAL)
    if (subject.name !== 'manifest') throw new Refused('document.subject', subject.name)
  } else if (kind === 'receipt') {
    fields(statement.predicate, 'predicate', RECEIPT)
    if (subject.name !== 'manifest') throw new Refused('document.subject', subject.name)
  } else if (kind === 'contract') {
    const { contract } = fields(statement.predicate, 'predicate', { contract: 'object' })
    const isIts = sha256(canonical(contract)).toString('hex') === digest
    if (!isIts || subject.name !== `${contract.name}@${contract.version}`) throw new Refused('document.subject')
  }
  if (!isSigned(Buffer.from(keyid, 'hex'), pae(payload), fromBase64(sig))) throw new Refused('document.signature')
  return { document: sha256(payload).toString('hex'), signer: keyid, subject: digest, predicate: statement.predicate }
}

/** An approval of this chain. Throws Refused. */
export function openApproval (chainId, data) {
  const document = openDocument(data, 'approval')
  if (document.predicate.chain_id !== chainId) throw new Refused('approval.foreign_chain')
  return document
}

/** A stakeholder's envelope: { id, envelope }. */
export function signApproval (key, manifest, predicate) {
  const payload = canonical({
    _type: STATEMENT,
    predicateType: 'urn:gridpact:approval:v1',
    subject: [{ name: 'manifest', digest: { sha256: manifest } }],
    predicate: { expires_ms: 0, comment: '', update: 0, ...predicate }
  })
  const signature = { keyid: key.public.toString('hex'), sig: key.signRaw(pae(payload)).toString('base64') }
  const envelope = { payload: payload.toString('base64'), payloadType: PAYLOAD_TYPE, signatures: [signature] }
  return { id: sha256(payload).toString('hex'), envelope: canonical(envelope) }
}
