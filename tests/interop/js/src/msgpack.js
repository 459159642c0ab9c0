// Binary values of the wire: docs/wire.md, "Values". One value has one encoding; any other is refused.
// null, booleans, integers (a bigint beyond 2^53), strings, Uint8Array, arrays, Map with string keys.
import { Refused } from './refused.js'

const DEPTH_MAX = 32

function compare (a, b) {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}

function head (parts, size, forms) {
  for (const [limit, code, width] of forms) {
    if (size < limit) {
      const out = Buffer.alloc(1 + width)
      out[0] = width === 0 ? code + size : code
      if (width > 0) out.writeUIntBE(size, 1, width)
      parts.push(out)
      return
    }
  }
  throw new Refused('msgpack.too_long', `${size}`)
}

function putInteger (parts, value) {
  const n = BigInt(value)
  const forms = n >= 0n
    ? [[0x80n, null, 0], [0x100n, 0xcc, 1], [0x10000n, 0xcd, 2], [0x100000000n, 0xce, 4], [1n << 64n, 0xcf, 8]]
    : [[0x21n, null, 0], [0x81n, 0xd0, 1], [0x8001n, 0xd1, 2], [0x80000001n, 0xd2, 4], [(1n << 63n) + 1n, 0xd3, 8]]
  const [, code, width] = forms.find(([limit]) => (n >= 0n ? n : -n) < limit) ?? []
  if (width === undefined) throw new Refused('msgpack.range', `${value}`)
  const out = Buffer.alloc(1 + width)
  const bits = BigInt.asUintN(8 * Math.max(1, width), n)
  out[0] = code ?? Number(bits)
  for (let i = 0; i < width; i++) out[1 + i] = Number((bits >> BigInt(8 * (width - 1 - i))) & 0xffn)
  parts.push(out)
}

function put (parts, value) {
  if (value === null) parts.push(Buffer.of(0xc0))
  else if (typeof value === 'boolean') parts.push(Buffer.of(value ? 0xc3 : 0xc2))
  else if (typeof value === 'number' || typeof value === 'bigint') putInteger(parts, value)
  else if (typeof value === 'string') {
    const text = Buffer.from(value)
    head(parts, text.length, [[32, 0xa0, 0], [0x100, 0xd9, 1], [0x10000, 0xda, 2], [2 ** 32, 0xdb, 4]])
    parts.push(text)
  } else if (value instanceof Uint8Array) {
    head(parts, value.length, [[0x100, 0xc4, 1], [0x10000, 0xc5, 2], [2 ** 32, 0xc6, 4]])
    parts.push(value)
  } else if (Array.isArray(value)) {
    head(parts, value.length, [[16, 0x90, 0], [0x10000, 0xdc, 2], [2 ** 32, 0xdd, 4]])
    for (const item of value) put(parts, item)
  } else if (value instanceof Map) {
    head(parts, value.size, [[16, 0x80, 0], [0x10000, 0xde, 2], [2 ** 32, 0xdf, 4]])
    for (const key of [...value.keys()].sort(compare)) {
      put(parts, key)
      put(parts, value.get(key))
    }
  } else throw new TypeError(`msgpack: ${typeof value}`)
}

/** The one encoding of a value. */
export function encode (value) {
  const parts = []
  put(parts, value)
  return Buffer.concat(parts)
}

class Reader {
  constructor (data) {
    this.data = Buffer.from(data.buffer, data.byteOffset, data.length)
    this.at = 0
  }

  take (size) {
    if (this.at + size > this.data.length) throw new Refused('msgpack.short', `${size} bytes at ${this.at}`)
    const from = this.at
    this.at += size
    return this.data.subarray(from, this.at)
  }

  unsigned (width) {
    let number = 0n
    for (const byte of this.take(width)) number = (number << 8n) | BigInt(byte)
    return number
  }

  integer (width, signed) {
    const bits = this.unsigned(width)
    const number = signed ? BigInt.asIntN(8 * width, bits) : bits
    return Number.isSafeInteger(Number(number)) ? Number(number) : number
  }

  value (depth) {
    if (depth > DEPTH_MAX) throw new Refused('msgpack.deep', `${depth}`)
    const code = this.take(1)[0]
    if (code < 0x80) return code
    if (code < 0x90) return this.map(code & 15, depth)
    if (code < 0xa0) return this.array(code & 15, depth)
    if (code < 0xc0) return this.text(code & 31)
    if (code >= 0xe0) return code - 256
    if (code === 0xc0) return null
    if (code === 0xc2 || code === 0xc3) return code === 0xc3
    if (code >= 0xc4 && code <= 0xc6) return this.take(Number(this.unsigned(1 << (code - 0xc4))))
    if (code >= 0xcc && code <= 0xcf) return this.integer(1 << (code - 0xcc), false)
    if (code >= 0xd0 && code <= 0xd3) return this.integer(1 << (code - 0xd0), true)
    if (code >= 0xd9 && code <= 0xdb) return this.text(Number(this.unsigned(1 << (code - 0xd9))))
    if (code === 0xdc || code === 0xdd) return this.array(Number(this.unsigned(code === 0xdc ? 2 : 4)), depth)
    if (code === 0xde || code === 0xdf) return this.map(Number(this.unsigned(code === 0xde ? 2 : 4)), depth)
    throw new Refused('msgpack.code', `0x${code.toString(16)}`)
  }

  text (size) {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(this.take(size))
  }

  array (size, depth) {
    const items = []
    for (let i = 0; i < size; i++) items.push(this.value(depth + 1)) // ends early on short bytes
    return items
  }

  map (size, depth) {
    const entries = new Map()
    for (let i = 0; i < size; i++) {
      const key = this.value(depth + 1)
      if (typeof key !== 'string' || entries.has(key)) throw new Refused('msgpack.key', `${key}`)
      entries.set(key, this.value(depth + 1))
    }
    return entries
  }
}

/** The value of foreign bytes. Throws Refused(`${what}.malformed`) or, for another spelling, `.not_canonical`. */
export function decodeExact (data, what) {
  let value
  const reader = new Reader(data)
  try {
    value = reader.value(0)
  } catch (error) {
    throw new Refused(`${what}.malformed`, error.message)
  }
  if (reader.at !== data.length) throw new Refused(`${what}.malformed`, 'bytes after the value')
  if (!encode(value).equals(data)) throw new Refused(`${what}.not_canonical`, 'not the one encoding of the value')
  return value
}

const KINDS = {
  int: (v) => typeof v === 'number' || typeof v === 'bigint',
  str: (v) => typeof v === 'string',
  bin: (v) => v instanceof Uint8Array,
  list: Array.isArray,
  map: (v) => v instanceof Map,
  any: () => true
}

/** An array as a struct: an object with these fields, given as "name:kind". Throws Refused(`${what}.malformed`). */
export function struct (value, what, ...fields) {
  if (!Array.isArray(value) || value.length !== fields.length) {
    throw new Refused(`${what}.malformed`, `an array of ${fields.length} wanted`)
  }
  return Object.fromEntries(fields.map((field, i) => {
    const [name, kind] = field.split(':')
    if (!KINDS[kind](value[i])) throw new Refused(`${what}.malformed`, `${name}: ${kind} wanted`)
    return [name, value[i]]
  }))
}
