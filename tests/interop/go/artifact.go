package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
)

const chunkBytes = 262_144

// artifact fetches one of a contract on the chain: the list against the signed root, then each chunk.
func (n *node) artifact(words command) (dict, error) {
	to, err := n.link(words.Peer)
	if err != nil {
		return nil, err
	}
	wanted, err := n.named(words.SHA256)
	if err != nil {
		return nil, err
	}
	name, _, err := fromHex(words.SHA256, "")
	if err != nil {
		return nil, err
	}
	size, err := wanted["size_bytes"].(json.Number).Int64()
	if err != nil {
		return nil, err
	}
	count, digests := int((size+chunkBytes-1)/chunkBytes), []byte{}
	for len(digests) < count*32 {
		raw, err := to.request("artifact/info", encode(list{name, len(digests) / 32}))
		if err != nil {
			return nil, err
		}
		info, err := decodeRow(raw, "artifact", "ib") // size, digests
		if err != nil {
			return nil, err
		}
		if info.integer(0) != size || len(info.bytes(1)) == 0 {
			return nil, refuse("artifact.list", "size")
		}
		digests = append(digests, info.bytes(1)...)
	}
	if hex.EncodeToString(sum(digests)) != wanted["chunks"] {
		return nil, refuse("artifact.list", "not the signed root")
	}
	whole := []byte{}
	for index := range count {
		chunk, err := to.request("artifact/chunk", encode(list{name, index, 1}))
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(sum(chunk), digests[index*32:index*32+32]) {
			return nil, refuse("artifact.chunk", "%d", index)
		}
		whole = append(whole, chunk...)
	}
	if !bytes.Equal(sum(whole), name) || int64(len(whole)) != size {
		return nil, refuse("artifact.whole", "not its digest")
	}
	return dict{"path": wanted["path"], "size_bytes": size, "chunks": count, "sha256": words.SHA256}, nil
}

// named gives what a contract on the chain says of an artifact.
func (n *node) named(digest string) (dict, error) {
	for _, tx := range n.chain.bodies {
		if tx.tag != "contract.publish" {
			continue
		}
		body, err := asRow(tx.body, "tx", "b")
		if err != nil {
			return nil, err
		}
		opened, err := openDocument(body.bytes(0), "contract")
		if err != nil {
			return nil, err
		}
		for _, workload := range opened.predicate["contract"].(dict)["workloads"].(list) {
			for _, it := range workload.(dict)["artifacts"].(list) {
				if artifact := it.(dict); artifact["sha256"] == digest {
					return artifact, nil
				}
			}
		}
	}
	return nil, refuse("artifact.unknown", "no contract on the chain names it")
}
