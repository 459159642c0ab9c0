// Organisations: from their signed deeds to who is a member, and who holds a role at which height. docs/spec.md,
// section 3, rules N1 to N6, G9 and G10. Keys and ids in hex.
import { isSigned, pae } from './documents.js'
import { canonical, fields, parseExact } from './json.js'
import { sha256 } from './keys.js'
import { Refused } from './refused.js'

const DEED_TYPE = 'application/vnd.gridpact.organisation+json'
const MEMBERS_MAX = 64
const KEYS_MAX = 8
const DEEDS_MAX = 1024
const WEIGHT_MAX = 1000000
const ROLES_MAX = 32
const VALID_MS_MAX = 30 * 24 * 3600000
const HEX_64 = /^[0-9a-f]{64}$/
const NAME = /^[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*$/
const DEED = {
  chain_id: 'string', organisation: 'string', version: 'int', act: 'string', valid_until_ms: 'int', charter: 'any',
  rotation: 'any', says: 'string'
}

const refuse = (rule, detail) => { throw new Refused(`organisation.${rule}`, detail) }
const hex = (bytes) => Buffer.from(bytes).toString('hex')

/** A deed whose form and charter make sense. Throws Refused. */
export function openDeed (payload) {
  const deed = fields(parseExact(payload, 'deed'), 'deed', DEED)
  const { act, charter, rotation, version, organisation } = deed
  const isFirst = act === 'found'
  if (!['found', 'change', 'rotate', 'dissolve'].includes(act)) refuse('malformed', act)
  if (isFirst !== (version === 1) || isFirst !== (organisation === '')) refuse('shape', 'the founding deed alone is version 1')
  if (!isFirst && !HEX_64.test(organisation)) refuse('shape', organisation)
  if ((charter !== null) !== (isFirst || act === 'change') || (rotation !== null) !== (act === 'rotate')) refuse('shape', act)
  if (rotation !== null && !HEX_64.test(fields(rotation, 'rotation', { member: 'string', key: 'string' }).key)) refuse('shape', 'rotation')
  if (charter !== null) checkCharter(fields(charter, 'charter', { name: 'string', members: 'array', quorum: 'int' }))
  return deed
}

function checkCharter ({ members, quorum }) {
  if (!(members.length >= 1 && members.length <= MEMBERS_MAX)) refuse('members', `${members.length}`)
  for (const member of members) {
    const { key, weight, roles } = fields(member, 'member', { name: 'string', key: 'string', weight: 'int', roles: 'array' })
    if (!HEX_64.test(key)) refuse('members', key)
    if (!(weight >= 0 && weight <= WEIGHT_MAX)) refuse('weight', `${weight}`)
    const isSorted = roles.every((role, i) => NAME.test(role) && (i === 0 || roles[i - 1] < role))
    if (roles.length > ROLES_MAX || !isSorted) refuse('roles', roles.join())
  }
  for (const field of ['name', 'key']) {
    if (new Set(members.map((it) => it[field])).size !== members.length) refuse('members', `a ${field} is there twice`)
  }
  const total = members.reduce((sum, { weight }) => sum + weight, 0)
  if (!(quorum >= 1 && quorum <= total)) refuse('quorum', `${quorum} of ${total}`)
}

/** Keys that a deed makes members'. */
export function keysIn (deed) {
  return [...(deed.charter?.members ?? []), ...(deed.rotation === null ? [] : [deed.rotation])].map(({ key }) => key)
}

const seatNamed = (now, name) => now.seats.find((seat) => seat.name === name) ?? refuse('member', name)

function checkFollows (now, deed) {
  if (deed.organisation !== '' && deed.organisation !== now.id) refuse('unknown', 'about another organisation')
  if (now.dissolved) refuse('dissolved')
  if (now.version >= DEEDS_MAX && deed.act !== 'dissolve') refuse('too_many_deeds')
  if (deed.version !== now.version + 1) refuse('stale', `${deed.version} after ${now.version}`)
  const gone = new Set(now.seats.flatMap(({ earlier, lost }) => [...earlier, ...lost]))
  if (deed.charter !== null) {
    if (canonical(deed.charter).equals(canonical(charterOf(now)))) refuse('same')
    if (deed.charter.members.some(({ key }) => gone.has(key))) refuse('former_key')
  }
  if (deed.rotation !== null) {
    const seat = seatNamed(now, deed.rotation.member)
    const { key } = deed.rotation
    if (gone.has(key) || now.seats.some((other) => other.key === key)) refuse('former_key')
    if (seat.earlier.length + seat.lost.length >= KEYS_MAX) refuse('rotations')
  }
}

function charterOf ({ name, quorum, seats }) {
  const members = seats.map((seat) => ({
    name: seat.name, key: seat.key, weight: seat.weight, roles: [...seat.holds.keys()].filter((it) => it !== '').sort()
  }))
  return { name, members, quorum }
}

/** Those before it, and those after it: enough of each must have signed. */
function checkQuorums (now, deed, given) {
  const lists = []
  if (now !== null) lists.push({ members: now.seats, quorum: now.quorum })
  if (deed.charter !== null) lists.push(deed.charter)
  const isAnywhere = (key) => lists.some(({ members }) => members.some((it) => it.key === key))
  if (!given.every(isAnywhere)) refuse('signers', 'only members sign')
  for (const { members, quorum } of lists) {
    const weight = members.reduce((sum, it) => sum + (given.includes(it.key) ? it.weight : 0), 0)
    if (weight < quorum) refuse('no_quorum', `weight ${weight} of ${quorum}`)
  }
}

function checkDeed (chainId, now, deed, { payload, signatures, timeMs }) {
  if (deed.valid_until_ms < timeMs) refuse('expired')
  if (deed.valid_until_ms > timeMs + VALID_MS_MAX) refuse('valid_until')
  if (deed.chain_id !== chainId) refuse('foreign_chain')
  if (now !== null) checkFollows(now, deed)
  else if (deed.act !== 'found') refuse('unknown', 'nothing was founded before it')
  const given = signatures.map(([key]) => hex(key))
  if (given.some((key, i) => i > 0 && given[i - 1] >= key)) refuse('signers', 'each key once, ascending')
  if (now !== null && deed.rotation !== null) {
    const wanted = [seatNamed(now, deed.rotation.member).key, deed.rotation.key].sort()
    if (given.join() !== wanted.join()) refuse('signers', 'the old key and the new one wanted')
  } else checkQuorums(now, deed, given)
  const message = pae(payload, DEED_TYPE)
  for (const [key, signature] of signatures) if (!isSigned(Buffer.from(key), message, Buffer.from(signature))) refuse('signature', hex(key))
}

function newSeat ({ name, key, weight, roles }, version, index, lost = []) {
  const holds = new Map(['', ...roles].map((role) => [role, version]))
  return { name, key, weight, number: version * MEMBERS_MAX + index, holds, earlier: [], lost }
}

/** Who keeps the key keeps the seat; who keeps the name under another key has lost the former one. */
function nextSeat (now, { members }, member, index, version) {
  const same = now.seats.find((seat) => seat.key === member.key)
  if (same !== undefined) {
    const holds = new Map(['', ...member.roles].map((role) => [role, same.holds.get(role) ?? version]))
    return { ...same, name: member.name, weight: member.weight, holds }
  }
  const isKept = (key) => members.some((other) => other.key === key)
  const former = now.seats.find((seat) => seat.name === member.name && !isKept(seat.key))
  const lost = former === undefined ? [] : [...former.lost, ...former.earlier, former.key].slice(-KEYS_MAX)
  return newSeat(member, version, index, lost)
}

function seatsAfter (now, { act, charter, rotation, version }) {
  if (act === 'dissolve') return []
  if (charter !== null) {
    return charter.members.map((it, i) => (now === null ? newSeat(it, version, i) : nextSeat(now, charter, it, i, version)))
  }
  return now.seats.map((seat) => (seat.name === rotation.member
    ? { ...seat, key: rotation.key, earlier: [...seat.earlier, seat.key] }
    : seat))
}

/** What an organisation was after each of its deeds. Throws Refused for the first that does not follow. */
export function replay (chainId, deeds) {
  const found = []
  for (const record of deeds) {
    const now = found.at(-1) ?? null
    const deed = openDeed(record.payload)
    if (now !== null && record.height <= now.height) refuse('busy', `height ${record.height}`)
    checkDeed(chainId, now, deed, record)
    const { name, quorum } = deed.charter ?? now
    found.push({
      id: now === null ? hex(sha256(record.payload)) : now.id,
      name,
      version: deed.version,
      quorum,
      seats: seatsAfter(now, deed),
      dissolved: deed.act === 'dissolve',
      height: record.height,
      timeMs: record.timeMs
    })
  }
  return found
}

/** Groups that share a key become one. */
function joined (groups) {
  let out = []
  for (const group of groups) {
    const met = out.filter((other) => other.some((key) => group.includes(key)))
    out = [...out.filter((other) => !met.includes(other)), [...new Set([...group, ...met.flat()])]]
  }
  return out
}

/** Keys that are one person's: `one` of those that sign as one member, `keptOut` also of those that were replaced. */
export class People {
  constructor (seats = []) {
    const moved = seats.filter(({ earlier, lost }) => earlier.length + lost.length > 0)
    this.groups = joined(moved.map(({ key, earlier }) => [key, ...earlier]))
    this.kin = joined(moved.map(({ key, earlier, lost }) => [key, ...earlier, ...lost]))
  }

  group (key) {
    return this.groups.find((group) => group.includes(key)) ?? [key]
  }

  one (key) {
    return this.group(key).reduce((a, b) => (b < a ? b : a))
  }

  keptOut (keys) {
    const out = new Set(keys)
    for (const kin of this.kin) if (kin.some((key) => out.has(key))) kin.forEach((key) => out.add(key))
    return new Set([...out].map((key) => this.one(key)))
  }
}

/** Who holds each role of a manifest: `roles` all keys that count, `current` those that may sign. */
export class Roll {
  constructor (roles, find) {
    Object.assign(this, { roles: new Map(), current: new Map(), held: new Set(), seats: new Map(), members: new Map() })
    const all = new Map()
    for (const role of roles) {
      const { name, keys = [], organisation = '', organisation_role: part = '' } = role
      if (organisation === '') {
        this.roles.set(name, keys)
        this.current.set(name, keys)
        continue
      }
      this.held.add(name)
      const found = find(organisation)?.seats ?? []
      all.set(organisation, found)
      const mine = found.filter((seat) => seat.holds.has(part))
      for (const seat of found) for (const key of [seat.key, ...seat.earlier]) this.members.set(`${name} ${key}`, seat.number)
      for (const seat of mine) {
        for (const key of [seat.key, ...seat.earlier]) this.seats.set(`${name} ${key}`, [seat.number, seat.holds.get(part)])
      }
      this.roles.set(name, mine.flatMap(({ key, earlier }) => [key, ...earlier]))
      this.current.set(name, mine.map(({ key }) => key))
    }
    this.people = new People([...all.values()].flat())
  }

  seat (role, key) {
    return this.seats.get(`${role} ${key}`) ?? [0, 0]
  }

  /** Was it signed by one who has been a member ever since? */
  belongs ({ role, signer, seat }) {
    return !this.held.has(role) || this.members.get(`${role} ${signer}`) === seat[0]
  }

  /** Does its signer hold what they held then? */
  counts ({ role, signer, seat }) {
    return !this.held.has(role) || this.seats.get(`${role} ${signer}`)?.join() === seat.join()
  }
}

/** Who holds the roles of a manifest at each height: a deed holds from the block after its own. */
export class Rolls {
  constructor (histories, roles) {
    Object.assign(this, { histories, roles })
    const found = [...histories.values()].flat().map(({ height, timeMs }) => [height, timeMs])
    this.turns = [...new Map(found.map((turn) => [turn.join(), turn])).values()].sort((a, b) => a[0] - b[0] || a[1] - b[1])
  }

  heightAt (timeMs) {
    return 1 + Math.max(0, ...this.turns.filter(([, at]) => at < timeMs).map(([height]) => height))
  }

  at (height) {
    return new Roll(this.roles, (id) => this.histories.get(id)?.filter((one) => one.height < height).at(-1))
  }
}
