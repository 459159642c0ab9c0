// Proofs: what the state holds under a root, and what stands in a batch. docs/wire.md, "Audit files".
import { hashTagged, sha256 } from './keys.js'
import { struct } from './msgpack.js'

const EMPTY = Buffer.alloc(32)
const DEPTH_MAX = 256
const TREE = 'gridpact/tree/1\0'
const LEAF = 'gridpact/batchtx/1\0\0'
const INNER = 'gridpact/batchtx/1\0\x01'

const bit = (bytes, at) => (bytes[at >> 3] >> (7 - (at & 7))) & 1

/** Does the state under this root hold `value` at `key` (null: nothing)? */
export function proves (root, key, value, proof) {
  const { siblings, leaf } = struct(proof, 'proof', 'siblings:list', 'leaf:bin')
  const isSibling = (it) => it instanceof Uint8Array && (it.length === 0 || (it.length === 32 && !EMPTY.equals(it)))
  if (siblings.length > DEPTH_MAX || !siblings.every(isSibling)) return false
  const target = sha256(key)
  let node
  if (value !== null) {
    if (leaf.length !== 0) return false
    node = sha256(TREE, Buffer.of(0), target, sha256(value))
  } else if (leaf.length === 0) {
    node = EMPTY
  } else {
    const other = leaf.subarray(0, 32)
    if (leaf.length !== 64 || target.equals(other)) return false
    for (let i = 0; i < siblings.length; i++) if (bit(target, i) !== bit(other, i)) return false
    node = sha256(TREE, Buffer.of(0), leaf)
  }
  for (let level = siblings.length - 1; level >= 0; level--) {
    const beside = siblings[level].length === 0 ? EMPTY : siblings[level]
    node = bit(target, level) ? sha256(TREE, Buffer.of(1), beside, node) : sha256(TREE, Buffer.of(1), node, beside)
  }
  return node.equals(root)
}

/** Does the transaction stand at this place of the batch with this digest? */
export function isIncluded (digest, tx, inclusion) {
  let { index, count, path } = struct(inclusion, 'inclusion', 'index:int', 'count:int', 'path:list')
  if (!(index >= 0 && index < count && count <= 2000)) return false
  if (path.some((it) => !(it instanceof Uint8Array) || it.length !== 32)) return false
  let node = sha256(LEAF, tx)
  let used = 0
  for (let width = count; width > 1; width = (width + 1) >> 1) {
    if ((index ^ 1) < width) {
      if (used === path.length) return false
      const beside = path[used++]
      node = index & 1 ? sha256(INNER, beside, node) : sha256(INNER, node, beside)
    }
    index >>= 1
  }
  const size = Buffer.alloc(4)
  size.writeUInt32BE(count)
  return used === path.length && hashTagged('batch/1', Buffer.concat([size, node])).equals(digest)
}
