// All that the state holds about a deployment, each record proved present or absent, in the order of docs/wire.md,
// "Audit files", 4. Keys, ids and digests in hex.
import { keysIn, openDeed } from './organisations.js'
import { PLACES } from './ballots.js'
import { decodeExact, struct } from './msgpack.js'
import { ACTS, namedKeys, ruleOf } from './policy.js'
import { Refused } from './refused.js'
import { proves } from './tree.js'

const FIELDS = {
  deployment: 'id contract manifest consumer bot status desired escrow spent feePaid orderedMs approvedMs claimedMs ' +
    'runningMs endedMs signedOffMs slots reason endsMs missedMs funded toppedUp extendedS disputes leftMs noticeMs lookMs ' +
    'decisions lostMs judgeMs signoffJudgeMs precedentMs generation updates updating ground askedMs paidIn returned ' +
    'withheld results releasedMs releaseJudgeMs releaseUntilMs',
  update: 'number tx sender former manifest contract status locked ground requestedMs precedentMs stepMs stepMissedMs ' +
    'approvedMs endedMs dueMs judgeMs refunded reason formerPrecedentMs',
  slot: 'deployment name status term holder leaseUntilMs renewedMs claimedMs billedMs rateHour windowClosesMs attempts ' +
    'endpoints results detail receipts missedMs missedRenewedMs manifest next runningMs switched witness commitment home',
  organisation: 'id name version quorum seats dissolved height timeMs',
  deed: 'payload signatures height timeMs',
  approval: 'signer role act decision document envelope expiresMs height timeMs madeMs sinceMs number seat generation results',
  receipt: 'deployment slot term node status envelope height timeMs',
  bill: 'slot term payee fromMs toMs amount missedMs withheld',
  penalty: 'slot term node payer payee owed amount timeMs',
  node: 'key farm',
  farm: 'name owner',
  dispute: 'number opener slot term says openedMs closedMs closing'
}

const refuse = (rule, detail) => { throw new Refused(rule, detail) }
const raw = (id) => Buffer.from(id, 'hex')

function be (number) {
  const out = Buffer.alloc(8)
  out.writeBigUInt64BE(BigInt(number))
  return out
}

/** The same value with bytes in hex. Throws Refused for a number that is not exact here. */
export function hexed (value) {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex')
  if (typeof value === 'bigint') refuse('audit.malformed', `${value}: a number beyond 2^53`)
  if (Array.isArray(value)) return value.map(hexed)
  return value instanceof Map ? new Map([...value].map(([key, it]) => [key, hexed(it)])) : value
}

class Reader {
  constructor (root, records) {
    Object.assign(this, { root, records, next: 0 })
  }

  /** The value under the next key, decoded; null: nothing is there. Throws Refused. */
  get (...parts) {
    const key = Buffer.concat(parts.map((part) => Buffer.from(part)))
    if (this.next === this.records.length) refuse('audit.incomplete', `no proof for ${key.subarray(0, 40)}`)
    const { value, proof } = struct(this.records[this.next++], 'audit', 'value:any', 'proof:list')
    if (value !== null && !(value instanceof Uint8Array)) refuse('audit.malformed', 'value')
    if (!proves(this.root, key, value, proof)) refuse('audit.record', `${key.subarray(0, 40)}`)
    if (value === null) return null
    return value.length === 0 ? [] : decodeExact(value, 'record') // of a mark only its presence counts
  }

  /** The same as a record of this kind. */
  record (kind, ...parts) {
    const values = this.get(...parts)
    if (values === null) return null
    const names = FIELDS[kind].split(' ')
    const isShort = values.length < names.length || (values.length > names.length && kind !== 'node' && kind !== 'farm')
    if (isShort) refuse('audit.malformed', `a ${kind} of ${values.length} fields`)
    return Object.fromEntries(names.map((name, i) => [name, kind === 'deed' && i < 2 ? values[i] : hexed(values[i])]))
  }

  must (kind, ...parts) {
    return this.record(kind, ...parts) ?? refuse('audit.incomplete', `no ${kind} record`)
  }
}

/** Ids of the organisations that hold roles, ascending. */
export function organisationsOf (manifests) {
  return [...new Set(manifests.flatMap(({ roles }) => roles.flatMap(({ organisation = '' }) => (organisation === '' ? [] : [organisation]))))].sort()
}

function readOrganisation (reader, id) {
  const record = reader.must('organisation', 'organisation/', raw(id))
  const seats = record.seats.map(([name, key, weight, number, holds, earlier, lost]) => ({ name, key, weight, number, holds, earlier, lost }))
  const deeds = Array.from({ length: record.version }, (_, i) => reader.must('deed', 'deed/', raw(id), '/', be(i + 1)))
  return [id, { record: { ...record, seats }, deeds }]
}

function readApprovals (reader, deployment, manifests, updates, members) {
  const keys = new Set(members)
  for (const { roles, policies } of manifests) {
    for (const { keys: mine = [] } of roles) mine.forEach((key) => keys.add(key))
    for (const act of ACTS) namedKeys(ruleOf(policies, act)).forEach((key) => keys.add(key))
  }
  const found = new Map()
  manifests.forEach((_, number) => {
    const wasInForce = number === 0 || updates[number - 1].status === 'done'
    for (const place of wasInForce ? PLACES : PLACES.slice(0, 1)) {
      const at = number === 0 ? place : `${place}@${number}`
      for (const key of [...keys].sort()) {
        found.set(`${place} ${number} ${key}`, reader.record('approval', 'approval/', raw(deployment), `/${at}/`, raw(key)))
      }
    }
  })
  return found
}

/** Receipts, bills and penalties by "slot term". */
function readWork (reader, deployment, slots) {
  const [receipts, bills, penalties] = [new Map(), new Map(), new Map()]
  for (const { name, term } of slots.values()) {
    for (let n = 1; n <= term; n++) {
      const [place, at] = [`${name} ${n}`, [raw(deployment), `/${name}/`, be(n)]]
      const mine = []
      for (let found; (found = reader.record('receipt', 'receipt/', ...at, be(mine.length))) !== null;) mine.push(found)
      receipts.set(place, mine)
      const bill = reader.record('bill', 'bill/', ...at, be(0))
      if (bill !== null) bills.set(place, bill)
      const penalty = reader.record('penalty', 'penalty/', ...at)
      if (penalty !== null) penalties.set(place, penalty)
    }
  }
  return { receipts, bills, penalties }
}

/** All records of a deployment, none left out and none left over. `manifests`: the order's, then each update's;
 * `decisions`: ids of the approval documents in the file. Throws Refused. */
export function readRecords (root, id, manifests, decisions, given) {
  const reader = new Reader(root, given)
  const deployment = reader.must('deployment', 'deployment/', raw(id))
  const count = manifests.length - 1
  if (deployment.updates !== count || !(deployment.generation >= 0 && deployment.generation <= count)) {
    refuse('audit.incomplete', `${count} of ${deployment.updates} updates`)
  }
  const updates = Array.from({ length: count }, (_, i) => reader.must('update', 'update/', raw(id), '/', be(i + 1)))
  const slots = new Map(deployment.slots.map((name) => [name, reader.must('slot', 'slot/', raw(id), '/', name)]))
  const organisations = new Map(organisationsOf(manifests).map((one) => readOrganisation(reader, one)))
  const members = [...organisations.values()].flatMap(({ deeds }) => deeds.flatMap(({ payload }) => keysIn(openDeed(payload))))
  const approvals = readApprovals(reader, id, manifests, updates, members)
  const documents = new Map(decisions.map((one) => [one, reader.get('document/', raw(id), '/', raw(one)) !== null]))
  const { receipts, bills, penalties } = readWork(reader, id, slots)
  const fees = new Map()
  for (const number of [0, ...updates.filter(({ status }) => status === 'done').map((one) => one.number)]) {
    const fee = reader.record('bill', 'bill/', raw(id), '//', be(number), be(0))
    if (fee !== null) fees.set(number, fee)
  }
  const holders = [...receipts.values()].flat().map(({ node }) => node).concat([...penalties.values()].map(({ node }) => node))
  for (const { holder } of slots.values()) if (holder !== '') holders.push(holder)
  const nodes = new Map([...new Set(holders)].sort().map((key) => [key, reader.must('node', 'node/', raw(key))]))
  const names = [...new Set([...nodes.values()].map(({ farm }) => farm))].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
  const farms = new Map(names.map((name) => [name, reader.must('farm', 'farm/', name)]))
  const disputes = Array.from({ length: deployment.disputes }, (_, n) => reader.must('dispute', 'dispute/', raw(id), '/', be(n)))
  if (reader.next !== given.length) refuse('audit.surplus', `${given.length - reader.next} more`)
  return { deployment, updates, slots, organisations, approvals, documents, receipts, bills, penalties, fees, nodes, farms, disputes }
}
