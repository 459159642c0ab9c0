// Which validators sign which epoch, from genesis on over the proofs in a file: docs/wire.md, "Audit files", 1.
import { checkCertificate, decodeHeader, openSet } from './chain.js'
import { hashTagged } from './keys.js'
import { struct } from './msgpack.js'
import { Refused } from './refused.js'

const PATH_MAX = 256

const refuse = (rule, detail) => { throw new Refused(rule, detail) }

/** Which set signs which epoch, and where each ended: grows from genesis over the file's proofs. */
export class Trust {
  constructor (genesis) {
    this.chainId = genesis.chainId
    this.sets = [genesis.set]
    this.ends = []
  }

  /** The header of a finality proof. Throws Refused. */
  final (proof) {
    const { header: data, path, certificate } = struct(proof, 'audit', 'header:bin', 'path:list', 'certificate:bin')
    const header = decodeHeader(this.chainId, this.sets, data)
    if (path.length > PATH_MAX) refuse('light.path_too_long', `${path.length}`)
    let last = header
    for (const item of path) {
      const child = decodeHeader(this.chainId, this.sets, item)
      if (child.set !== header.set) refuse('light.other_validators', `height ${child.height}`)
      if (child.height !== last.height + 1 || !last.hash.equals(child.parentHash)) refuse('light.broken_path')
      const isTail = last.isBoundary && (child.batches.length > 0 || !last.nextValidators.equals(child.nextValidators))
      if (isTail) refuse('light.tail', `height ${child.height}`)
      last = child
    }
    checkCertificate(last, certificate)
    const end = this.ends[header.epoch]
    if (end !== undefined && header.height > end.height) refuse('light.above_boundary', `height ${header.height}`)
    return header
  }

  /** The header that is to end the last known epoch; one of a later epoch is of validators that nobody knows. */
  ending (finality) {
    try {
      return this.final(finality)
    } catch (error) {
      if (error instanceof Refused && error.rule === 'light.unknown_epoch') refuse('light.other_validators', error.message)
      throw error
    }
  }

  /** One epoch further. Throws Refused. */
  advance (proof) {
    const { nextSet, parent: data, finality } = struct(proof, 'audit', 'nextSet:bin', 'parent:bin', 'finality:list')
    const header = this.ending(finality)
    if (header.set !== this.sets.at(-1)) refuse('light.other_validators', `epoch ${header.epoch}`)
    if (!header.isBoundary) refuse('light.no_boundary', `height ${header.height}`)
    const parent = decodeHeader(this.chainId, this.sets, data)
    const isChild = hashTagged('block/1', data).equals(header.parentHash) && header.height === parent.height + 1
    if (!isChild || parent.epoch !== header.epoch || parent.isBoundary) refuse('light.not_first', `height ${header.height}`)
    const set = openSet(nextSet)
    if (!set.hash.equals(header.nextValidators) || set.epoch !== header.epoch + 1) refuse('light.next_set')
    this.sets.push(set)
    this.ends.push(header)
  }
}

