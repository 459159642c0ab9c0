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

// validatorSet is who votes in an epoch.
type validatorSet struct {
	epoch   int64
	members []validator
	hash    []byte
	quorum  int64
}

func openSet(data []byte) (*validatorSet, error) {
	r, err := decodeRow(data, "validators", "il")
	if err != nil {
		return nil, err
	}
	found, total := &validatorSet{epoch: r.integer(0), hash: sum(data)}, int64(0)
	for _, item := range r.list(1) {
		member, err := asRow(item, "validators", "bis") // key, weight, moniker
		if err != nil {
			return nil, err
		}
		found.members = append(found.members, validator{member.bytes(0), member.integer(1)})
		total += member.integer(1)
	}
	found.quorum = 2*total/3 + 1
	return found, nil
}

type genesis struct {
	chainID string
	hash    []byte
	set     *validatorSet // of epoch 0
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
	whole := dict{"limits": 5}
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
	members := list{}
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
		members = append(members, list{key, weight, it["moniker"]})
	}
	found.set, err = openSet(encode(list{0, members}))
	return found, err
}

type header struct {
	height, epoch, view              int64
	chainID                          string
	parentHash, hash, nextValidators []byte
	batches                          [][]byte
	set                              *validatorSet // that signs it
}

// isBoundary: is it the last of its epoch, or above it?
func (h *header) isBoundary() bool { return !bytes.Equal(h.nextValidators, h.set.hash) }

// decodeHeader gives a header whose set is known; sets are by epoch.
func decodeHeader(chainID string, sets []*validatorSet, data []byte) (*header, error) {
	// chain id, epoch, height, view, parent view, parent hash, time, proposer, state height, state root,
	// validators, next validators, batches
	r, err := decodeRow(data, "header", "siiiibibibbbl")
	if err != nil {
		return nil, err
	}
	if r.text(0) != chainID {
		return nil, refuse("light.foreign_chain", "%s", r.text(0))
	}
	epoch := r.integer(1)
	if epoch < 0 || epoch >= int64(len(sets)) {
		return nil, refuse("light.unknown_epoch", "epoch %d", epoch)
	}
	if !bytes.Equal(r.bytes(10), sets[epoch].hash) {
		return nil, refuse("light.other_validators", "height %d", r.integer(2))
	}
	batches, err := allBytes(r.list(12), "header")
	if err != nil {
		return nil, err
	}
	return &header{height: r.integer(2), epoch: epoch, view: r.integer(3), chainID: chainID, parentHash: r.bytes(5),
		hash: hashTagged("block/1", data), nextValidators: r.bytes(11), batches: batches, set: sets[epoch]}, nil
}

// checkCertificate gives the weight of those who signed, when it is a quorum for a Final statement of this header.
func checkCertificate(of *header, data []byte) (int64, error) {
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
	isFit := len(bitmap) == (len(of.set.members)+7)/8 && len(signers) == len(signatures)
	if !isFit || len(signers) > 0 && signers[len(signers)-1] >= len(of.set.members) {
		return 0, refuse("certificate.malformed", "bitmap and signatures do not match")
	}
	for _, member := range signers {
		weight += of.set.members[member].weight
	}
	if weight < of.set.quorum {
		return 0, refuse("certificate.no_quorum", "%d of %d", weight, of.set.quorum)
	}
	message := encode(list(statement))
	for i, member := range signers {
		if !verify(of.set.members[member].key, "vote/1", of.chainID, message, signatures[i]) {
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
