package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
)

// Blocks, certificates and transactions, checked by one who holds genesis.json alone: docs/wire.md, "Blocks".

const (
	finalKind = 3
	pathMax   = 256 // headers between a block and the certificate that covers it
)

type validator struct {
	key    []byte
	weight int64
}

type genesis struct {
	chainID        string
	hash           []byte
	validators     []validator
	validatorsHash []byte
	quorum         int64
}

func readGenesis(file string) (*genesis, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	value, err := parseJSON(text)
	if err != nil {
		return nil, err
	}
	given := value.(dict)
	whole := dict{"limits": 1}
	for name, it := range given {
		whole[name] = it
	}
	consensus := dict{"view_timeout_ms": 1500, "view_timeout_max_ms": 15000, "alpha_percent": 20, "idle_ms": 1000}
	if its, isGiven := given["consensus"].(dict); isGiven {
		for name, it := range its {
			consensus[name] = it
		}
	}
	whole["consensus"] = consensus
	found := &genesis{chainID: given["chain_id"].(string), hash: hashTagged("genesis/1", canonical(whole))}
	members, total := list{}, int64(0)
	for _, item := range given["validators"].(list) {
		it := item.(dict)
		key, err := hex.DecodeString(it["key"].(string))
		if err != nil {
			return nil, err
		}
		weight, err := it["weight"].(json.Number).Int64()
		if err != nil {
			return nil, err
		}
		found.validators = append(found.validators, validator{key, weight})
		members = append(members, list{key, weight, it["moniker"]})
		total += weight
	}
	found.validatorsHash = sum(encode(list{0, members}))
	found.quorum = 2*total/3 + 1
	return found, nil
}

type header struct {
	height, epoch, view, parentView int64
	parentHash, hash                []byte
	batches                         [][]byte
}

func (g *genesis) decodeHeader(data []byte) (*header, error) {
	// chain id, epoch, height, view, parent view, parent hash, time, proposer, state height, state root,
	// validators, next validators, batches
	r, err := decodeRow(data, "header", "siiiibibibbbl")
	if err != nil {
		return nil, err
	}
	if r.text(0) != g.chainID {
		return nil, refuse("light.foreign_chain", "%s", r.text(0))
	}
	if r.integer(1) != 0 || !bytes.Equal(r.bytes(10), g.validatorsHash) {
		return nil, refuse("light.other_validators", "height %d", r.integer(2))
	}
	batches, err := allBytes(r.list(12), "header")
	if err != nil {
		return nil, err
	}
	return &header{height: r.integer(2), epoch: r.integer(1), view: r.integer(3), parentView: r.integer(4),
		parentHash: r.bytes(5), hash: hashTagged("block/1", data), batches: batches}, nil
}

// checkCertificate gives the weight of those who signed, when it is a quorum for a Final statement of this header.
func (g *genesis) checkCertificate(of *header, data []byte) (int64, error) {
	certificate, err := decodeRow(data, "certificate", "lbl")
	if err != nil {
		return 0, err
	}
	statement, err := asRow(certificate[0], "certificate", "iiib") // kind, epoch, view, block
	if err != nil {
		return 0, err
	}
	if statement.integer(0) != finalKind {
		return 0, refuse("light.not_final", "kind %d", statement.integer(0))
	}
	if !bytes.Equal(statement.bytes(3), of.hash) || statement.integer(2) != of.view {
		return 0, refuse("light.other_block", "the certificate names another block")
	}
	if statement.integer(1) != of.epoch {
		return 0, refuse("certificate.epoch", "%d", statement.integer(1))
	}
	bitmap := certificate.bytes(1)
	signatures, err := allBytes(certificate.list(2), "certificate")
	if err != nil {
		return 0, err
	}
	signers, weight := []int{}, int64(0)
	for i := 0; i < len(bitmap)*8; i++ {
		if bitmap[i/8]>>(i%8)&1 == 1 {
			signers = append(signers, i)
		}
	}
	isFit := len(bitmap) == (len(g.validators)+7)/8 && len(signers) == len(signatures)
	if !isFit || len(signers) > 0 && signers[len(signers)-1] >= len(g.validators) {
		return 0, refuse("certificate.malformed", "bitmap and signatures do not match")
	}
	for _, member := range signers {
		weight += g.validators[member].weight
	}
	if weight < g.quorum {
		return 0, refuse("certificate.no_quorum", "%d of %d", weight, g.quorum)
	}
	message := encode(list(statement))
	for i, member := range signers {
		if !verify(g.validators[member].key, "vote/1", g.chainID, message, signatures[i]) {
			return 0, refuse("certificate.signature", "member %d", member)
		}
	}
	return weight, nil
}

// decodeBatch gives the transactions of an encoded batch, and the digest that names it.
func decodeBatch(data []byte) (txs [][]byte, digest []byte, err error) {
	r, err := decodeRow(data, "batch", "l")
	if err != nil {
		return nil, nil, err
	}
	if txs, err = allBytes(r.list(0), "batch"); err != nil {
		return nil, nil, err
	}
	if len(txs) == 0 {
		return nil, nil, refuse("batch.size", "empty")
	}
	level := make([][]byte, len(txs))
	for i, tx := range txs {
		level[i] = sum([]byte("gridpact/batchtx/1\x00\x00"), tx)
	}
	for len(level) > 1 {
		above := [][]byte{}
		for i := 0; i+1 < len(level); i += 2 {
			above = append(above, sum([]byte("gridpact/batchtx/1\x00\x01"), level[i], level[i+1]))
		}
		if len(level)%2 == 1 {
			above = append(above, level[len(level)-1]) // a last node without a sibling moves up
		}
		level = above
	}
	count := binary.BigEndian.AppendUint32(nil, uint32(len(txs)))
	return txs, hashTagged("batch/1", append(count, level[0]...)), nil
}

type transaction struct {
	id   []byte
	tag  string
	body list // what follows the tag
}

func (g *genesis) openTx(raw []byte) (*transaction, error) {
	signed, err := decodeRow(raw, "tx", "bb")
	if err != nil {
		return nil, err
	}
	tx, err := decodeRow(signed.bytes(0), "tx", "sbibl") // chain id, sender, expires, salt, body
	if err != nil {
		return nil, err
	}
	if tx.text(0) != g.chainID {
		return nil, refuse("tx.foreign_chain", "%s", tx.text(0))
	}
	if !verify(tx.bytes(1), "tx/1", g.chainID, signed.bytes(0), signed.bytes(1)) {
		return nil, refuse("tx.signature", "not the sender's")
	}
	body := tx.list(4)
	if len(body) == 0 {
		return nil, refuse("tx.malformed", "no tag")
	}
	tag, isText := body[0].(string)
	if !isText {
		return nil, refuse("tx.malformed", "no tag")
	}
	return &transaction{hashTagged("txid/1", signed.bytes(0)), tag, body[1:]}, nil
}

// signTx gives a transaction as it travels, and its id.
func signTx(key ed25519.PrivateKey, chainID string, expires int64, salt []byte, body list) (raw, id []byte) {
	payload := encode(list{chainID, public(key), expires, salt, body})
	return encode(list{payload, sign(key, "tx/1", chainID, payload)}), hashTagged("txid/1", payload)
}

// chain is what this peer has proved, from genesis on.
type chain struct {
	*genesis
	tip     header
	heights map[string]int64        // transaction id in hex -> height
	bodies  map[string]*transaction // the same, of orders and contracts
}

func newChain(g *genesis) *chain {
	return &chain{g, header{hash: g.hash}, map[string]int64{}, map[string]*transaction{}}
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
	last, open := &c.tip, 0
	found := map[int64][][]byte{}
	for _, item := range items {
		stored, err := asRow(item, "range", "blb")
		if err != nil {
			return 0, err
		}
		next, txs, err := c.checkBlock(last, stored, fetchBatch)
		if err != nil {
			return 0, err
		}
		if open++; len(stored.bytes(2)) > 0 {
			if _, err := c.checkCertificate(next, stored.bytes(2)); err != nil {
				return 0, err
			}
			open = 0
		} else if open > pathMax {
			return 0, refuse("light.path_too_long", "height %d", next.height)
		}
		last, found[next.height] = next, txs
	}
	if open > 0 {
		return 0, refuse("range.uncertified", "no certificate covers the end")
	}
	for height, txs := range found {
		for _, raw := range txs {
			c.keep(height, raw)
		}
	}
	c.tip = *last
	return len(items), nil
}

func (c *chain) checkBlock(last *header, stored row, fetch func([]byte) ([]byte, error)) (*header, [][]byte, error) {
	next, err := c.decodeHeader(stored.bytes(0))
	if err != nil {
		return nil, nil, err
	}
	if next.height != last.height+1 {
		return nil, nil, refuse("range.order", "height %d", next.height)
	}
	if !bytes.Equal(next.parentHash, last.hash) || next.parentView != last.view {
		return nil, nil, refuse("range.parent", "height %d", next.height)
	}
	parts, err := allBytes(stored.list(1), "range")
	if err != nil {
		return nil, nil, err
	}
	if len(parts) == 0 {
		for _, digest := range next.batches {
			part, err := fetch(digest)
			if err != nil {
				return nil, nil, err
			}
			parts = append(parts, part)
		}
	}
	if len(parts) != len(next.batches) {
		return nil, nil, refuse("range.batches", "height %d", next.height)
	}
	all := [][]byte{}
	for i, part := range parts {
		txs, digest, err := decodeBatch(part)
		if err != nil {
			return nil, nil, err
		}
		if !bytes.Equal(digest, next.batches[i]) {
			return nil, nil, refuse("range.batches", "height %d", next.height)
		}
		all = append(all, txs...)
	}
	return next, all, nil
}

// keep: a block may hold what nobody signed; it is skipped when it executes.
func (c *chain) keep(height int64, raw []byte) {
	tx, err := c.openTx(raw)
	if err != nil {
		return
	}
	id := hex.EncodeToString(tx.id)
	c.heights[id] = height
	if tx.tag == "deployment.order" || tx.tag == "contract.publish" {
		c.bodies[id] = tx
	}
}
