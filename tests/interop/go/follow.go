package main

import (
	"bytes"
	"encoding/hex"
	"maps"
	"slices"
)

// chain is what this peer has proved, from genesis on.
type chain struct {
	*genesis
	tip     *header
	sets    []*validatorSet         // by epoch
	changes map[string][]byte       // sha256 -> encoded validator set that a transaction proposed
	heights map[string]int64        // transaction id in hex -> height
	bodies  map[string]*transaction // the same, of orders and contracts
}

func newChain(g *genesis) *chain {
	return &chain{g, &header{hash: g.hash}, []*validatorSet{g.set}, map[string][]byte{}, map[string]int64{},
		map[string]*transaction{}}
}

// extend takes an answer to "blocks", all or nothing; fetchBatch gives a batch that came without.
func (c *chain) extend(answer []byte, fetchBatch func([]byte) ([]byte, error)) (int, error) {
	value, err := decodeExact(answer, "range")
	if err != nil {
		return 0, err
	}
	items, isList := value.(list)
	if !isList {
		return 0, refuse("range.malformed", "an array wanted")
	}
	last, open := c.tip, 0 // open: blocks since the last one with a certificate
	sets, changes := slices.Clone(c.sets), maps.Clone(c.changes)
	found := map[int64][]*transaction{}
	for _, item := range items {
		stored, err := asRow(item, "range", "blbl") // header, batches, certificate, path
		if err != nil {
			return 0, err
		}
		next, txs, err := c.checkBlock(sets, last, stored, fetchBatch)
		if err != nil {
			return 0, err
		}
		for _, tx := range txs {
			if tx.tag == "validators.change" && len(tx.body) > 0 {
				if data, isBytes := tx.body[0].([]byte); isBytes {
					changes[string(sum(data))] = data
				}
			}
		}
		if open++; len(stored.bytes(2)) > 0 {
			open = 0
		} else if next.isBoundary() || open > pathMax {
			return 0, refuse("range.certificate", "height %d", next.height)
		}
		if next.isBoundary() {
			set, err := openSet(changes[string(next.nextValidators)])
			if err != nil || set.epoch != next.epoch+1 {
				return 0, refuse("light.next_set", "height %d", next.height)
			}
			sets = append(sets, set)
		}
		last, found[next.height] = next, txs
	}
	if open > 0 {
		return 0, refuse("range.certificate", "nothing makes the end final")
	}
	for height, txs := range found {
		for _, tx := range txs {
			c.keep(height, tx)
		}
	}
	c.tip, c.sets, c.changes = last, sets, changes
	return len(items), nil
}

// checkBlock gives the header that follows `last` and its transactions; its certificate, if there is one, holds.
func (c *chain) checkBlock(
	sets []*validatorSet, last *header, stored row, fetch func([]byte) ([]byte, error),
) (*header, []*transaction, error) {
	next, err := decodeHeader(c.chainID, sets, stored.bytes(0))
	if err != nil {
		return nil, nil, err
	}
	if next.epoch != int64(len(sets))-1 {
		return nil, nil, refuse("light.other_validators", "epoch %d has ended", next.epoch)
	}
	if next.height != last.height+1 || !bytes.Equal(next.parentHash, last.hash) {
		return nil, nil, refuse("range.order", "height %d does not follow %d", next.height, last.height)
	}
	if len(stored.bytes(2)) > 0 {
		certified, err := c.certified(sets, next, stored.list(3))
		if err != nil {
			return nil, nil, err
		}
		if _, err := checkCertificate(certified, stored.bytes(2)); err != nil {
			return nil, nil, err
		}
	}
	txs, err := c.transactions(next, stored.list(1), fetch)
	return next, txs, err
}

// certified gives the header that the certificate names: of an epoch's last block it may be one above it, all empty.
func (c *chain) certified(sets []*validatorSet, of *header, items list) (*header, error) {
	path, err := allBytes(items, "range")
	if err != nil {
		return nil, err
	}
	if len(path) > 0 && !of.isBoundary() {
		return nil, refuse("range.path", "height %d", of.height)
	}
	if len(path) > pathMax {
		return nil, refuse("light.path_too_long", "%d", len(path))
	}
	last := of
	for _, data := range path {
		child, err := decodeHeader(c.chainID, sets, data)
		if err != nil {
			return nil, err
		}
		if child.height != last.height+1 || !bytes.Equal(child.parentHash, last.hash) {
			return nil, refuse("light.broken_path", "height %d", child.height)
		}
		if len(child.batches) > 0 || !bytes.Equal(child.nextValidators, last.nextValidators) {
			return nil, refuse("light.tail", "height %d", child.height)
		}
		last = child
	}
	return last, nil
}

// transactions gives those of a block: what nobody signed may stand there, and is skipped when it executes.
func (c *chain) transactions(
	of *header, items list, fetch func([]byte) ([]byte, error),
) ([]*transaction, error) {
	parts, err := allBytes(items, "range")
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		for _, digest := range of.batches {
			part, err := fetch(digest)
			if err != nil {
				return nil, err
			}
			parts = append(parts, part)
		}
	}
	if len(parts) != len(of.batches) {
		return nil, refuse("range.batches", "height %d", of.height)
	}
	found := []*transaction{}
	for i, part := range parts {
		txs, digest, err := decodeBatch(part)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(digest, of.batches[i]) {
			return nil, refuse("range.batches", "height %d", of.height)
		}
		for _, raw := range txs {
			if tx, err := c.openTx(raw); err == nil {
				found = append(found, tx)
			}
		}
	}
	return found, nil
}

func (c *chain) keep(height int64, tx *transaction) {
	id := hex.EncodeToString(tx.id)
	c.heights[id] = height
	if tx.tag == "deployment.order" || tx.tag == "contract.publish" {
		c.bodies[id] = tx
	}
}
