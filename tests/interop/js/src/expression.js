// Sizing rules, `${= expression}`: the part of CEL that contracts may use, see docs/authoring.md. Numbers are bigints
// of 64 bits, so that they overflow where CEL's do.
import { Refused } from './refused.js'

const SIGNS = /\s*(?:([0-9]+)|([A-Za-z_][A-Za-z0-9_]*)|('[^'"\\]*'|"[^'"\\]*")|(&&|\|\||[=!<>]=|[-+*/%<>!?:(),[\]]))/y
const LEVELS = [['||'], ['&&'], ['==', '!=', '<', '<=', '>', '>=', 'in'], ['+', '-'], ['*', '/', '%']]
const LARGEST = (1n << 63n) - 1n
const UNITS = {
  B: 1n, KiB: 1n << 10n, MiB: 1n << 20n, GiB: 1n << 30n, TiB: 1n << 40n, kB: 10n ** 3n, MB: 10n ** 6n, GB: 10n ** 9n,
  TB: 10n ** 12n, SECOND: 1n, MINUTE: 60n, HOUR: 3600n, DAY: 86400n, CORE: 1000n, CREDIT: 1000000n
}

const fail = (detail) => { throw new Refused('manifest.expression', detail) }

function bounded (number) {
  if (number > LARGEST || number < -LARGEST - 1n) fail('more than 64 bits')
  return number
}

/** One that decides does so, whatever the other is; `wanted` is what decides. */
function either (sides, wanted) {
  let fault
  for (const side of sides) {
    try {
      if (side() === wanted) return wanted
    } catch (error) {
      fault ??= error
    }
  }
  if (fault !== undefined) throw fault
  return !wanted
}

const BINARY = {
  '||': (a, b) => either([a, b], true),
  '&&': (a, b) => either([a, b], false),
  '==': (a, b) => a() === b(),
  '!=': (a, b) => a() !== b(),
  '<': (a, b) => a() < b(),
  '<=': (a, b) => a() <= b(),
  '>': (a, b) => a() > b(),
  '>=': (a, b) => a() >= b(),
  '+': (a, b) => bounded(a() + b()),
  '-': (a, b) => bounded(a() - b()),
  '*': (a, b) => bounded(a() * b()),
  '/': (a, b) => bounded(a() / divisor(b())),
  '%': (a, b) => bounded(a() % divisor(b()))
}

function divisor (number) {
  return number === 0n ? fail('division by zero') : number
}

const FUNCTIONS = {
  min: (numbers) => numbers.reduce((a, b) => (b < a ? b : a)),
  max: (numbers) => numbers.reduce((a, b) => (b > a ? b : a)),
  ceil_div: ([a, b]) => (b < 1n ? fail('ceil_div by less than 1') : a / b + (a % b > 0n ? 1n : 0n))
}

/** A reader that makes functions without arguments: what they return is the value. */
class Reader {
  constructor (text, values) {
    Object.assign(this, { values, words: [], at: 0 })
    SIGNS.lastIndex = 0
    for (let from = 0; text.slice(from).trim() !== '';) {
      const found = SIGNS.exec(text) ?? fail(`nothing is known at ${from}`)
      this.words.push(found)
      from = SIGNS.lastIndex
    }
  }

  /** The sign or keyword that comes next. */
  get sign () {
    const word = this.words[this.at]
    return word === undefined ? '' : word[4] ?? (word[2] === 'in' ? 'in' : '')
  }

  take (sign) {
    if (this.sign !== sign) fail(`${sign} wanted`)
    this.at++
  }

  choice () {
    const first = this.binary(0)
    if (this.sign !== '?') return first
    this.take('?')
    const yes = this.binary(0)
    this.take(':')
    const no = this.choice()
    return () => (first() ? yes() : no())
  }

  binary (level) {
    if (level === LEVELS.length) return this.unary()
    let left = this.binary(level + 1)
    while (LEVELS[level].includes(this.sign)) {
      const sign = this.sign
      this.take(sign)
      const before = left
      if (sign === 'in') {
        const items = this.several('[', ']')
        left = () => { const wanted = before(); return items.some((item) => item() === wanted) }
      } else {
        const right = this.binary(level + 1)
        left = () => BINARY[sign](before, right)
      }
    }
    return left
  }

  unary () {
    const sign = this.sign
    if (sign !== '-' && sign !== '!') return this.operand()
    let count = 0
    for (; this.sign === sign; count++) this.take(sign)
    const inner = this.operand()
    if (sign === '!') return () => (count % 2 === 1) !== inner()
    return () => { let value = inner(); for (let i = 0; i < count; i++) value = bounded(-value); return value }
  }

  operand () {
    const word = this.words[this.at++] ?? fail('a value wanted, found the end')
    const [, number, name, text, sign] = word
    if (number !== undefined) { const value = bounded(BigInt(number)); return () => value }
    if (text !== undefined) return () => text.slice(1, -1)
    if (sign === '(') {
      const inner = this.choice()
      this.take(')')
      return inner
    }
    if (name === undefined || name === 'in') fail('a value wanted')
    if (name === 'true' || name === 'false') return () => name === 'true'
    if (this.sign === '(') {
      const run = Object.hasOwn(FUNCTIONS, name) ? FUNCTIONS[name] : fail(`no function ${name}`)
      const items = this.several('(', ')')
      return () => bounded(run(items.map((item) => item())))
    }
    if (Object.hasOwn(UNITS, name)) return () => UNITS[name]
    if (!this.values.has(name)) fail(`no parameter ${name}`)
    const value = this.values.get(name)
    return () => (typeof value === 'number' ? BigInt(value) : value)
  }

  several (opening, closing) {
    this.take(opening)
    const items = [this.choice()]
    while (this.sign === ',') {
      this.take(',')
      items.push(this.choice())
    }
    this.take(closing)
    return items
  }
}

/** The value of an expression over the parameters (a Map): a bigint, a boolean or a text. Throws Refused. */
export function evaluate (text, values) {
  const reader = new Reader(text, values)
  const value = reader.choice()
  if (reader.at !== reader.words.length) fail('more than one expression')
  return value()
}
