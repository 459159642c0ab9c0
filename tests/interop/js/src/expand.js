// From a contract, parameters and roles to the manifest that was approved: docs/spec.md, section 3. What comes out must
// have the digest that was signed, so nothing that is refused in a contract has to be refused here again.
import { canonical } from './json.js'
import { evaluate } from './expression.js'
import { sha256 } from './keys.js'
import { Refused } from './refused.js'

const REFERENCE = /\$\$\{|\$\{([^{}]*)\}/g
const BY_ORGANISATION = 'organisation:'
const DECIMAL = '([0-9]{1,16})(?:\\.([0-9]{1,9}))?'
const SIZES = {
  B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12
}
const SECONDS = { s: 1, m: 60, h: 3600, d: 86400 }
const HOUR_MS = 3600000n

const refuse = (rule, detail) => { throw new Refused(rule, detail) }

/** The groups of a text that is wholly of this form. Throws Refused. */
function read (form, text, what) {
  const found = typeof text === 'string' ? new RegExp(`^(?:${form})$`).exec(text) : null
  return found ?? refuse('manifest.value', `${what} wanted, found ${text}`)
}

function scaled (whole, fraction, unit, what) {
  const digits = fraction ?? ''
  const number = BigInt(whole + digits) * BigInt(unit)
  const scale = 10n ** BigInt(digits.length)
  if (number % scale !== 0n) refuse('manifest.value', what)
  return Number(number / scale)
}

const QUANTITY = {
  integer: (it) => (typeof it === 'number' ? it : refuse('manifest.value', 'an integer wanted')),
  size: (it) => {
    if (typeof it === 'number') return it
    const [, whole, fraction, unit] = read(`${DECIMAL}\\s?(B|KiB|MiB|GiB|TiB|kB|MB|GB|TB)`, it, 'a size')
    return scaled(whole, fraction, SIZES[unit], 'whole bytes')
  },
  duration: (it) => {
    if (typeof it === 'number') return it
    const [, number, unit] = read('([0-9]{1,12})(s|m|h|d)', it, 'a duration')
    return Number(number) * SECONDS[unit]
  },
  money: (it) => {
    if (typeof it === 'number') return it
    const [, whole, fraction] = read(`${DECIMAL}\\s?credits?`, it, 'money')
    return scaled(whole, fraction, 1000000, 'micro-credits')
  },
  cpu: (it) => {
    if (typeof it === 'number') return it * 1000
    const [, millis, whole, fraction] = read(`(?:([0-9]{1,9})m|${DECIMAL})`, it, 'cores')
    return millis !== undefined ? Number(millis) : scaled(whole, fraction, 1000, 'thousandths of a core')
  }
}

/** Every parameter with its value in its unit: a Map. */
function parameters (contract, given) {
  const values = new Map()
  for (const { name, type, default: fallback } of contract.parameters) {
    const value = given.get(name) ?? fallback ?? refuse('parameter.missing', name)
    values.set(name, Object.hasOwn(QUANTITY, type) && type !== 'cpu' ? QUANTITY[type](value) : value)
  }
  for (const name of given.keys()) if (!values.has(name)) refuse('parameter.unknown', name)
  return values
}

/** A literal; or a reference, read as if its value stood there; or an expression, in its unit already. */
function number (given, values, kind) {
  if (typeof given === 'number' || given === null) return given
  const [, inner] = read('\\$\\{([^{}]*)\\}', given, 'one reference')
  return inner.startsWith('=') ? Number(evaluate(inner.slice(1), values)) : QUANTITY[kind](values.get(inner))
}

function text (given, values) {
  return given.replace(REFERENCE, (found, inner) => found === '$${'
    ? '${'
    : String(inner.startsWith('=') ? evaluate(inner.slice(1), values) : values.get(inner)))
}

function workload (template, values) {
  const { resources, placement } = template
  return {
    ...template,
    replicas: number(template.replicas, values, 'integer'),
    command: template.command.map((word) => text(word, values)),
    environment: Object.fromEntries(Object.entries(template.environment).map(([name, it]) => [name, text(it, values)])),
    resources: {
      cpu_millis: number(resources.cpu_millis, values, 'cpu'),
      memory_bytes: number(resources.memory_bytes, values, 'size'),
      disk_bytes: number(resources.disk_bytes, values, 'size'),
      pids: number(resources.pids, values, 'integer')
    },
    placement: {
      ...placement,
      countries: placement.countries.map((it) => text(it, values)),
      farms: placement.farms.map((it) => text(it, values))
    },
    volumes: template.volumes.map((volume) => ({
      ...volume,
      size_bytes: number(volume.size_bytes, values, 'size'),
      rpo_s: number(volume.rpo_s, values, 'duration')
    })),
    available_s: number(template.available_s, values, 'duration'),
    time_limit_s: number(template.time_limit_s, values, 'duration'),
    agree: number(template.agree, values, 'integer'),
    fuel: number(template.fuel, values, 'integer')
  }
}

/** A role with who holds it; what has its default is left out. */
function role ({ name, bind, keys = [], organisation = '', organisation_role: part = '' }, bound) {
  const words = bind === 'order' ? bound.get(name) ?? refuse('role.unbound', name) : null
  if (words?.length === 1 && words[0].startsWith(BY_ORGANISATION)) {
    const [id, ...rest] = words[0].slice(BY_ORGANISATION.length).split('/')
    return held(name, [], id, rest.join('/'))
  }
  return words === null ? held(name, keys, organisation, part) : held(name, words, '', '')
}

function held (name, keys, organisation, part) {
  return {
    name,
    ...(keys.length > 0 && { keys: [...keys].sort() }),
    ...(organisation !== '' && { organisation }),
    ...(part !== '' && { organisation_role: part })
  }
}

/** The manifest and its digest in hex. `contract`: an opened contract document; keys in hex. Throws Refused. */
export function expand ({ document, signer, predicate: { contract } }, consumer, given, bound) {
  const values = parameters(contract, given)
  const { terms } = contract
  const manifest = {
    gridpact: 1,
    contract: document,
    name: contract.name,
    version: contract.version,
    author: signer,
    consumer,
    parameters: Object.fromEntries(values),
    workloads: contract.workloads.map((template) => workload(template, values)),
    roles: contract.roles.map((it) => role(it, bound)),
    policies: contract.policies,
    terms: {
      duration_s: number(terms.duration_s, values, 'duration'),
      budget: number(terms.budget, values, 'money'),
      fee: number(terms.fee, values, 'money'),
      price: Object.fromEntries(Object.entries(terms.price).map(([name, it]) => [name, number(it, values, 'money')])),
      grace_s: number(terms.grace_s, values, 'duration'),
      extension_s: number(terms.extension_s, values, 'duration'),
      top_up: number(terms.top_up, values, 'money')
    }
  }
  return { manifest, digest: sha256(canonical(manifest)).toString('hex') }
}

/** Names of all slots, in order. */
export function slotsOf (manifest) {
  return manifest.workloads.flatMap(({ name, replicas }) => Array.from({ length: replicas }, (_, i) => `${name}/${i}`))
}

/** The workload of a slot; undefined when the manifest has no such slot. */
export function workloadOf (manifest, slot) {
  return slotsOf(manifest).includes(slot) ? manifest.workloads.find(({ name }) => slot.startsWith(`${name}/`)) : undefined
}

const ceil = (a, b) => a / b + (a % b > 0n ? 1n : 0n)

/** Micro-credits (a bigint) for a stretch of time at an hourly rate, rounded up. */
export function cost (rateHour, ms) {
  return ms > 0 ? ceil(BigInt(rateHour) * BigInt(ms), HOUR_MS) : 0n
}

/** Micro-credits that a deployment would have had under these terms, topped up and extended so. */
export function fundsUnder (terms, toppedUp, extendedS) {
  const budget = BigInt(terms.budget) + BigInt(toppedUp)
  return Number(budget + ceil((budget - BigInt(terms.fee)) * BigInt(extendedS), BigInt(terms.duration_s)))
}

/** The most that a deployment may cost under these terms. */
export function mostSpent (terms) {
  return fundsUnder(terms, terms.top_up, terms.extension_s)
}
