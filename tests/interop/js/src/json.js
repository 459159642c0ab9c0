// Canonical JSON: UTF-8, keys sorted, no spaces, whole numbers. docs/wire.md, "Values".
import { Refused } from './refused.js'

function sorted (value) {
  if (Array.isArray(value)) return value.map(sorted)
  if (value === null || typeof value !== 'object') return value
  const keys = Object.keys(value).sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
  const made = Object.create(null) // own keys alone: "__proto__" is a name like any other
  for (const key of keys) made[key] = sorted(value[key])
  return made
}

/** The one JSON text of a value, as bytes. Names that look like numbers do not occur in our documents. */
export function canonical (value) {
  return Buffer.from(JSON.stringify(sorted(value)))
}

/** Foreign JSON that must be its own canonical form: that refuses spaces, double keys and other spellings. */
export function parseExact (data, what) {
  let value
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(data))
  } catch (error) {
    throw new Refused('document.malformed', `${what}: ${error.message}`)
  }
  if (!canonical(value).equals(data)) throw new Refused('document.not_canonical', what)
  return value
}

/** Throws unless the object has exactly these fields, each of its type; 'any': of any. */
export function fields (value, what, shape) {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    throw new Refused('document.malformed', `${what}: an object wanted`)
  }
  const names = Object.keys(shape).sort().join()
  if (Object.keys(value).sort().join() !== names) throw new Refused('document.malformed', `${what}: fields ${names}`)
  for (const [name, type] of Object.entries(shape)) {
    const right = type === 'any' || (type === 'array' ? Array.isArray(value[name]) : type === 'int' ? Number.isSafeInteger(value[name]) : typeof value[name] === type) // eslint-disable-line
    if (!right) throw new Refused('document.malformed', `${what}.${name}: ${type} wanted`)
  }
  return value
}
