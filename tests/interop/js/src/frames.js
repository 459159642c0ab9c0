// The frames of our two streams, without any I/O: docs/wire.md, "Frames".
import { Refused } from './refused.js'

export const HELLO = 1
export const DATA = 2
export const ACK = 3
export const PING = 4
export const PONG = 5
export const REQUEST = 6
export const RESPONSE = 7
export const GOODBYE = 8

const MORE = 0x80
const FRAME_MAX = 65_500 // a whole frame; bodies of one message that need more are split
const BODY_MAX = FRAME_MAX - 5
const MESSAGE_MAX = 1_048_576 + 4_096
const COUNTED = new Set([HELLO, DATA, REQUEST, RESPONSE])

/** The frames of one message. */
export function encodeMessage (kind, body) {
  const frames = []
  for (let at = 0; at === 0 || at < body.length; at += BODY_MAX) {
    const part = body.subarray(at, at + BODY_MAX)
    const head = Buffer.alloc(5)
    head.writeUInt32BE(part.length + 1)
    head[4] = at + BODY_MAX < body.length ? kind | MORE : kind
    frames.push(Buffer.concat([head, part]))
  }
  return frames
}

/** A body of 8 bytes. */
export function number (value) {
  const body = Buffer.alloc(8)
  body.writeBigUInt64BE(BigInt(value))
  return body
}

/** One stream's bytes to messages. `counted`: the bytes that credit acknowledges. */
export class Decoder {
  constructor () {
    this.counted = 0
    this.buffer = Buffer.alloc(0)
    this.parts = []
    this.partsKind = 0
  }

  /** The messages that a chunk completes: [kind, body] each. Throws Refused. */
  feed (chunk) {
    this.buffer = Buffer.concat([this.buffer, chunk])
    const messages = []
    while (this.buffer.length >= 5) {
      const length = this.buffer.readUInt32BE(0)
      const kind = this.buffer[4] & ~MORE
      if (length < 1) throw new Refused('frame.empty')
      if (length + 4 > FRAME_MAX) throw new Refused('frame.too_long', `${length + 4}`)
      if (kind < HELLO || kind > GOODBYE) throw new Refused('frame.unknown_kind', `${kind}`)
      if (this.buffer.length < length + 4) break
      const body = this.buffer.subarray(5, length + 4)
      const isMore = (this.buffer[4] & MORE) !== 0
      this.buffer = this.buffer.subarray(length + 4)
      if (!COUNTED.has(kind)) {
        messages.push([kind, body]) // may stand between the parts of another
        continue
      }
      this.counted += length + 4
      if (this.partsKind !== 0 && this.partsKind !== kind) throw new Refused('frame.split')
      this.parts.push(body)
      if (this.parts.reduce((sum, part) => sum + part.length, 0) > MESSAGE_MAX) throw new Refused('frame.too_long')
      this.partsKind = kind
      if (isMore) continue
      messages.push([kind, Buffer.concat(this.parts)])
      this.parts = []
      this.partsKind = 0
    }
    return messages
  }
}
