// A link to a neighbour: two streams, the hello, answers to its heartbeat, requests. docs/wire.md, "Links".
import { randomBytes } from 'node:crypto'
import { ACK, Decoder, GOODBYE, HELLO, PING, PONG, REQUEST, RESPONSE, encodeMessage, number } from './frames.js'
import { verify } from './keys.js'
import { decodeExact, encode, struct } from './msgpack.js'
import { Refused } from './refused.js'

export const CONSENSUS = '/gridpact/consensus/1'
export const BULK = '/gridpact/bulk/1'
const ACK_EVERY = 262_144
const HELLO_S = 10
const ANSWER_S = 20
const instance = randomBytes(16) // of this start

/** One stream of a link: frames out, messages in, bytes acknowledged. */
class Lane {
  constructor (stream, onMessage, onEnd) {
    this.stream = stream
    this.acknowledged = 0
    this.#read(onMessage).then(() => onEnd('closed by the peer'), (error) => onEnd(error.rule ?? error.message))
  }

  send (kind, body) {
    for (const frame of encodeMessage(kind, body)) this.stream.send(frame)
  }

  async #read (onMessage) {
    const decoder = new Decoder()
    for await (const chunk of this.stream) {
      for (const [kind, body] of decoder.feed(chunk.subarray())) {
        if (kind === PING) this.send(PONG, body)
        else if (kind === GOODBYE) throw new Refused(body.toString())
        else if (kind !== ACK && kind !== PONG) onMessage(kind, body)
      }
      if (decoder.counted - this.acknowledged >= ACK_EVERY) {
        this.acknowledged = decoder.counted
        this.send(ACK, number(decoder.counted))
      }
    }
  }
}

/** The neighbour's first words, checked. Throws Refused. */
function openHello (genesis, body, speaker, hearer) {
  if (body[0] !== 1) throw new Refused('hello.version', `${body[0]}`)
  const hello = struct(decodeExact(body.subarray(17), 'hello'), 'hello', 'protocol:int', 'chainId:str', 'genesis:bin',
    'moniker:str', 'roles:list', 'height:int', 'validator:bin', 'proof:bin')
  if (hello.chainId !== genesis.chainId || !genesis.hash.equals(hello.genesis)) {
    throw new Refused('hello.foreign_chain', hello.chainId)
  }
  const isMember = genesis.set.validators.some(({ key }) => key.equals(hello.validator))
  if (hello.validator.length > 0) {
    const said = Buffer.concat([speaker, hearer])
    if (!verify(hello.validator, 'hello/1', genesis.chainId, said, hello.proof)) throw new Refused('hello.proof')
  }
  return { chain_id: hello.chainId, moniker: hello.moniker, roles: hello.roles, height: hello.height, is_validator: isMember }
}

/** A neighbour. `Link.open` gives one whose hello was accepted, and that accepted ours. */
export class Link {
  #answers = new Map() // request id -> { resolve, reject }
  #nextId = 0
  #hello = deferred()
  #ended = deferred()

  /** `words`: chain id and genesis hash that we name. Throws Refused with the peer's reason when it refuses us. */
  static async open (connection, genesis, ourKey, peerKey, words) {
    const link = new Link()
    const onEnd = (reason) => {
      link.#end(reason)
      connection.close().catch(() => {}) // it may be closed already
    }
    const onMessage = (kind, body) => link.#message(kind, body)
    const consensus = new Lane(await connection.newStream(CONSENSUS), onMessage, onEnd)
    const hello = encode([1, words.chainId, words.genesis, 'js', ['observer'], 0, Buffer.alloc(0), Buffer.alloc(0)])
    consensus.send(HELLO, Buffer.concat([Buffer.of(1), instance, hello]))
    link.hello = openHello(genesis, await within(HELLO_S, link.#hello.promise), peerKey, ourKey)
    try {
      link.bulk = new Lane(await connection.newStream(BULK), onMessage, onEnd)
      await link.request('p2p/addresses', Buffer.alloc(0)) // answered only once we are its neighbour
    } catch (error) {
      throw await link.#reasonOr(error)
    }
    return link
  }

  /** Why the link ended, when the peer says so soon; else the error. */
  async #reasonOr (error) {
    return within(1, this.#ended.promise).then((reason) => new Refused(reason), () => error)
  }

  /** A neighbour's answer. Throws Refused with the rule that the neighbour names. */
  async request (method, body) {
    const id = this.#nextId++
    const head = Buffer.alloc(5)
    head.writeUInt32BE(id)
    head[4] = method.length
    const answer = deferred()
    this.#answers.set(id, answer)
    this.bulk.send(REQUEST, Buffer.concat([head, Buffer.from(method), body]))
    if (this.reason) answer.reject(new Refused(this.reason))
    try {
      return await within(ANSWER_S, answer.promise)
    } finally {
      this.#answers.delete(id)
    }
  }

  #message (kind, body) {
    if (kind === HELLO) this.#hello.resolve(body)
    else if (kind === RESPONSE) this.#answered(body)
    else if (kind === REQUEST) this.#asked(body)
    // DATA on the bulk stream is a hint of a new tip: we ask when we want to know.
  }

  #answered (body) {
    const answer = this.#answers.get(body.readUInt32BE(0))
    if (answer === undefined) return
    if (body[4] === 0) answer.resolve(body.subarray(5))
    else {
      const [rule, ...detail] = body[4] === 1 ? body.subarray(5).toString().split(': ') : ['busy']
      answer.reject(new Refused(rule, detail.join(': ')))
    }
  }

  #asked (body) {
    const method = body.subarray(5, 5 + body[4]).toString()
    const isOurs = method === 'p2p/addresses' // nobody can dial us, so the list is empty
    const reason = isOurs ? '' : 'request.method: not served here'
    this.bulk.send(RESPONSE, Buffer.concat([body.subarray(0, 4), Buffer.of(isOurs ? 0 : 1), Buffer.from(reason)]))
  }

  #end (reason) {
    this.reason ??= reason
    this.#ended.resolve(this.reason)
    const error = new Refused(this.reason)
    this.#hello.reject(error)
    for (const { reject } of this.#answers.values()) reject(error)
  }
}

function deferred () {
  let resolve, reject
  const promise = new Promise((...both) => { [resolve, reject] = both })
  promise.catch(() => {}) // who waits for it sees the error; when nobody does, it is no error
  return { promise, resolve, reject }
}

async function within (seconds, promise) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Refused('timeout', `${seconds} s`)), seconds * 1000)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
