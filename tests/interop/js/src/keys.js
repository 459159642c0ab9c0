// Hashes and Ed25519 signatures under a domain tag: docs/wire.md, "Hashes and signatures".
import { createHash, createPrivateKey, createPublicKey, sign as rawSign, verify as rawVerify } from 'node:crypto'

const SPKI = Buffer.from('302a300506032b6570032100', 'hex') // RFC 8410: a public key of 32 bytes follows
const PKCS8 = Buffer.from('302e020100300506032b657004220420', 'hex') // RFC 8410: a seed of 32 bytes follows

export function sha256 (...parts) {
  const digest = createHash('sha256')
  for (const part of parts) digest.update(part)
  return digest.digest()
}

/** sha256 over the domain's tag and the data. */
export function hashTagged (domain, data) {
  return sha256(`gridpact/${domain}\0`, data)
}

/** The bytes that a key signs. */
export function tagged (domain, chainId, message) {
  return Buffer.concat([Buffer.from(`gridpact/${domain}\0${chainId}\0`), message])
}

/** Is it the signature of this 32-byte key over exactly these bytes? */
export function verifyRaw (key, message, signature) {
  if (key.length !== 32 || signature.length !== 64) return false
  try {
    const made = createPublicKey({ key: Buffer.concat([SPKI, key]), format: 'der', type: 'spki' })
    return rawVerify(null, message, made, signature)
  } catch {
    return false // such as a point that is not on the curve
  }
}

export function verify (key, domain, chainId, message, signature) {
  return verifyRaw(key, tagged(domain, chainId, message), signature)
}

/** A key by its 32-byte seed: its public half and what signs. */
export class Key {
  constructor (seed) {
    if (seed.length !== 32) throw new RangeError('a seed has 32 bytes')
    this.secret = createPrivateKey({ key: Buffer.concat([PKCS8, seed]), format: 'der', type: 'pkcs8' })
    this.public = createPublicKey(this.secret).export({ format: 'der', type: 'spki' }).subarray(-32)
  }

  signRaw (message) {
    return rawSign(null, message, this.secret)
  }

  sign (domain, chainId, message) {
    return this.signRaw(tagged(domain, chainId, message))
  }
}
