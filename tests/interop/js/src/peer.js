// A js-libp2p peer that meets a gridpact network: commands on stdin, reports on stdout, both JSON lines (README.md).
import './node20.js'
import { randomBytes } from 'node:crypto'
import { createInterface } from 'node:readline'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { StrictNoSign, StrictSign, gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { Chain, Genesis, checkCertificate, decodeHeader, openTx, signTx } from './chain.js'
import { openApproval, openDocument, signApproval } from './documents.js'
import { Key, sha256 } from './keys.js'
import { Link } from './link.js'
import { decodeExact, encode, struct } from './msgpack.js'
import { Refused } from './refused.js'

const KINDS = ['contracts', 'approvals', 'transactions', 'blocks']
const KIND_OF = { 'contract.publish': 'contracts', 'approval.decide': 'approvals' } // others: transactions
const RANGE_BYTES = 524_288
const CHUNK_BYTES = 262_144
const WAIT_MS = 20_000

function say (line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

async function until (what, holds) {
  const deadline = Date.now() + WAIT_MS
  while (!holds()) {
    if (Date.now() > deadline) throw new Refused('timeout', what)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** The peer at work. Each method without # is a command: it takes its words and returns what is reported. */
class Peer {
  #links = new Map() // peer id -> Link
  #identified = new Map() // peer id -> what it said of itself by identify

  constructor (genesis) {
    this.genesis = genesis
    this.chain = new Chain(genesis)
    this.topics = Object.fromEntries(KINDS.map((kind) => [`/gridpact/${genesis.chainId}/${kind}/1`, kind]))
  }

  async begin (isSigning) {
    const topicOf = (message) => Buffer.from(`${message.topic}\0`)
    this.node = await createLibp2p({
      privateKey: await generateKeyPairFromSeed('Ed25519', randomBytes(32)),
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
      services: {
        identify: identify(),
        ping: ping(),
        pubsub: gossipsub({
          msgIdFn: (message) => sha256(topicOf(message), message.data),
          allowedTopics: Object.keys(this.topics),
          globalSignaturePolicy: isSigning ? StrictSign : StrictNoSign
        })
      }
    })
    this.node.addEventListener('peer:identify', ({ detail }) => this.#identified.set(detail.peerId.toString(), detail))
    for (const [topic, kind] of Object.entries(this.topics)) {
      this.node.services.pubsub.topicValidators.set(topic, (peer, message) => this.#judge(kind, message.data))
      this.node.services.pubsub.subscribe(topic)
    }
    return { peer: this.node.peerId.toString() }
  }

  /** Gossip: our own judgement, reported, with what it shows. */
  #judge (kind, data) {
    try {
      say({ event: 'gossip', kind, verdict: 'accept', ...this.#read(kind, data) })
      return 'accept'
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      // Of an epoch that we have not followed into we cannot tell: that is nobody's fault.
      const verdict = error.rule === 'light.unknown_epoch' ? 'ignore' : 'reject'
      say({ event: 'gossip', kind, verdict, rule: error.rule })
      return verdict
    }
  }

  #read (kind, data) {
    if (kind === 'blocks') {
      const { header, certificate } = struct(decodeExact(data, 'announce'), 'announce', 'header:bin', 'certificate:bin')
      return this.#proved(header, certificate)
    }
    const tx = openTx(this.genesis.chainId, data)
    if ((KIND_OF[tx.tag] ?? 'transactions') !== kind) throw new Refused('gossip.topic', tx.tag)
    const shown = { tx: tx.id.toString('hex'), tag: tx.tag }
    if (kind === 'contracts') shown.document = openDocument(tx.body[0], 'contract').document
    if (kind === 'approvals') shown.document = openApproval(this.genesis.chainId, tx.body[0]).document
    return shown
  }

  async join ({ address, chain_id: chainId = this.genesis.chainId }) {
    const connection = await this.node.dial(multiaddr(address))
    const peer = connection.remotePeer
    await until('identify', () => this.#identified.has(peer.toString()))
    const { agentVersion, protocols } = this.#identified.get(peer.toString())
    const pingMs = await this.node.services.ping.ping(peer)
    const words = { chainId, genesis: this.genesis.hash }
    const link = await Link.open(connection, this.genesis, Buffer.from(this.node.peerId.publicKey.raw), Buffer.from(peer.publicKey.raw), words)
    this.#links.set(peer.toString(), link)
    const isSubscribed = (topic) => this.node.services.pubsub.getSubscribers(topic).some((it) => it.equals(peer))
    await until('the peer subscribes to our topics', () => Object.keys(this.topics).every(isSubscribed))
    return {
      peer: peer.toString(), security: connection.encryption, muxer: connection.multiplexer, agent: agentVersion,
      protocols, ping_ms: pingMs, hello: link.hello
    }
  }

  /** Blocks from our tip on to the peer's, each proved; `height`: wait for that one. */
  async follow ({ peer, height = 0 }) {
    const link = this.#link(peer)
    const deadline = Date.now() + WAIT_MS
    const fetchBatch = (digest) => link.request('batch', Buffer.from(digest))
    let blocks = 0
    for (;;) {
      const body = encode([this.chain.tip.height + 1, RANGE_BYTES, 0])
      const found = await this.chain.extend(await link.request('blocks', body), fetchBatch)
      blocks += found
      if (found > 0) continue
      if (this.chain.tip.height >= height) break
      if (Date.now() > deadline) throw new Refused('timeout', `height ${height}`)
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    const { tip, heights, sets } = this.chain
    return { height: tip.height, hash: tip.hash.toString('hex'), blocks, txs: heights.size, epoch: sets.at(-1).epoch }
  }

  /** Where the proved chain has a transaction. */
  async final ({ tx }) {
    if (!this.chain.heights.has(tx)) throw new Refused('tx.unknown', 'not in the blocks that were fetched')
    return { height: this.chain.heights.get(tx) }
  }

  async check_certificate ({ header, certificate }) {
    return this.#proved(Buffer.from(header, 'hex'), Buffer.from(certificate, 'hex'))
  }

  /** A header, proved by the certificate that names it. */
  #proved (header, certificate) {
    const opened = decodeHeader(this.genesis.chainId, this.chain.sets, header)
    const weight = checkCertificate(opened, certificate)
    return { height: opened.height, epoch: opened.epoch, hash: opened.hash.toString('hex'), weight }
  }

  async check_approval ({ envelope }) {
    return openApproval(this.genesis.chainId, Buffer.from(envelope, 'hex'))
  }

  /** A stakeholder's approval, by gossip; the manifest's digest is what the final order names. */
  async approve ({ seed, deployment, role, spoil = '' }) {
    const key = new Key(Buffer.from(seed, 'hex'))
    const order = this.chain.bodies.get(deployment)
    if (order?.tag !== 'deployment.order') throw new Refused('approval.unknown_deployment')
    const predicate = { chain_id: this.genesis.chainId, deployment, act: 'deploy', role, decision: 'granted', made_ms: Date.now() }
    const { id, envelope } = signApproval(key, order.body[3].toString('hex'), predicate)
    const sent = await this.#send(key, ['approval.decide', spoil === 'document' ? spoiled(envelope) : envelope], spoil)
    return { ...sent, document: id }
  }

  async transfer ({ seed, to, amount, spoil = '' }) {
    return this.#send(new Key(Buffer.from(seed, 'hex')), ['transfer', Buffer.from(to, 'hex'), amount], spoil)
  }

  /** Signs and gossips. `spoil`: "signature" breaks it, "chain" signs for another chain. */
  async #send (key, body, spoil) {
    const chainId = spoil === 'chain' ? 'elsewhere' : this.genesis.chainId
    const { id, raw } = signTx(key, chainId, this.chain.tip.height + 100, randomBytes(8), body)
    if (spoil === 'signature') raw[raw.length - 1] ^= 1
    await this.gossip({ kind: KIND_OF[body[0]] ?? 'transactions', data: raw.toString('hex') })
    return { tx: id.toString('hex'), raw: raw.toString('hex') }
  }

  async gossip ({ kind, data }) {
    const [topic] = Object.entries(this.topics).find(([, its]) => its === kind)
    // Our own validators are for what others bring: what is wrong on purpose must leave here.
    const pubsub = this.node.services.pubsub
    const { recipients } = await pubsub.publish(topic, Buffer.from(data, 'hex'))
    return { recipients: recipients.length }
  }

  async request ({ peer, method, body }) {
    return { body: (await this.#link(peer).request(method, Buffer.from(body, 'hex'))).toString('hex') }
  }

  /** An artifact of a contract on the chain, by the range protocol: list against the signed root, then each chunk. */
  async artifact ({ peer, sha256: digest }) {
    const wanted = this.#named(digest)
    const link = this.#link(peer)
    const name = Buffer.from(digest, 'hex')
    const count = Math.ceil(wanted.size_bytes / CHUNK_BYTES)
    let list = Buffer.alloc(0)
    while (list.length < count * 32) {
      const answer = struct(decodeExact(await link.request('artifact/info', encode([name, list.length / 32])), 'artifact'),
        'artifact', 'size:int', 'digests:bin')
      if (answer.size !== wanted.size_bytes || answer.digests.length === 0) throw new Refused('artifact.list', 'size')
      list = Buffer.concat([list, answer.digests])
    }
    if (sha256(list).toString('hex') !== wanted.chunks) throw new Refused('artifact.list', 'not the signed root')
    const chunks = []
    for (let index = 0; index < count; index++) {
      const chunk = await link.request('artifact/chunk', encode([name, index, 1]))
      if (!sha256(chunk).equals(list.subarray(index * 32, index * 32 + 32))) throw new Refused('artifact.chunk', `${index}`)
      chunks.push(chunk)
    }
    const whole = Buffer.concat(chunks)
    if (sha256(whole).toString('hex') !== digest || whole.length !== wanted.size_bytes) throw new Refused('artifact.whole')
    return { path: wanted.path, size_bytes: whole.length, chunks: count, sha256: digest }
  }

  #named (digest) {
    for (const { tag, body } of this.chain.bodies.values()) {
      if (tag !== 'contract.publish') continue
      const { contract } = openDocument(body[0], 'contract').predicate
      for (const { artifacts } of contract.workloads) {
        const found = artifacts.find((artifact) => artifact.sha256 === digest)
        if (found !== undefined) return found
      }
    }
    throw new Refused('artifact.unknown', 'no contract on the chain names it')
  }

  #link (peer) {
    const link = this.#links.get(peer)
    if (link === undefined || link.reason) throw new Refused('link.none', link?.reason)
    return link
  }

  async stop () {
    await this.node.stop()
    return {}
  }
}

/** An envelope whose signature is another's. */
function spoiled (envelope) {
  const made = JSON.parse(envelope)
  const sig = Buffer.from(made.signatures[0].sig, 'base64')
  sig[0] ^= 1
  made.signatures[0].sig = sig.toString('base64')
  return Buffer.from(JSON.stringify(made)) // its keys stand in order already
}

const COMMANDS = new Set(['join', 'follow', 'final', 'check_certificate', 'check_approval', 'approve',
  'transfer', 'gossip', 'request', 'artifact', 'stop'])

const peer = new Peer(new Genesis(process.argv[2]))
say({ id: 0, ok: true, genesis: peer.genesis.hash.toString('hex'), ...(await peer.begin(process.argv[3] !== 'unsigned')) })
for await (const line of createInterface({ input: process.stdin })) {
  const { id, do: verb, ...words } = JSON.parse(line)
  try {
    if (!COMMANDS.has(verb)) throw new Refused('command.unknown', verb)
    say({ id, ok: true, ...(await peer[verb](words)) })
  } catch (error) {
    if (!(error instanceof Refused)) console.error(error)
    say({ id, ok: false, rule: error.rule ?? 'error', detail: error.message })
  }
  if (verb === 'stop') break
}
process.exit(0)
