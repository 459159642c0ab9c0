package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"regexp"
	"time"
)

// Signed documents: DSSE over in-toto Statement v1: docs/wire.md, "Documents".

const (
	payloadType   = "application/vnd.in-toto+json"
	statementType = "https://in-toto.io/Statement/v1"
)

var hex64 = regexp.MustCompile(`^[0-9a-f]{64}$`)

type document struct {
	id, signer, subject string
	predicate           dict
}

func pae(payload []byte) []byte {
	return append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(payloadType), payloadType, len(payload)), payload...)
}

func fromBase64(text string) ([]byte, error) {
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || base64.StdEncoding.EncodeToString(data) != text {
		return nil, refuse("document.not_canonical", "base64")
	}
	return data, nil
}

// openEnvelope gives payload, signer and signature, which is not verified yet.
func openEnvelope(data []byte) (payload []byte, signer string, signature []byte, err error) {
	value, err := parseExact(data, "envelope")
	if err != nil {
		return nil, "", nil, err
	}
	envelope, err := asDict(value, "envelope", map[string]byte{"payload": 's', "payloadType": 's', "signatures": 'l'})
	if err != nil {
		return nil, "", nil, err
	}
	if envelope["payloadType"] != payloadType {
		return nil, "", nil, refuse("document.kind", "%v", envelope["payloadType"])
	}
	signatures := envelope["signatures"].(list)
	if len(signatures) != 1 {
		return nil, "", nil, refuse("document.signature", "exactly one wanted")
	}
	made, err := asDict(signatures[0], "signature", map[string]byte{"keyid": 's', "sig": 's'})
	if err != nil {
		return nil, "", nil, err
	}
	signer = made["keyid"].(string)
	if !hex64.MatchString(signer) {
		return nil, "", nil, refuse("key.hex", "%q", signer)
	}
	if signature, err = fromBase64(made["sig"].(string)); err != nil {
		return nil, "", nil, err
	}
	payload, err = fromBase64(envelope["payload"].(string))
	return payload, signer, signature, err
}

func sshString(data []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)
}

func sshStrings(start string, parts ...[]byte) []byte {
	out := []byte(start)
	for _, part := range parts {
		out = append(out, sshString(part)...)
	}
	return out
}

// isSigned takes a plain signature, or an SSHSIG in the one form that is allowed: made again, and compared.
func isSigned(key, message, signature []byte) bool {
	if len(signature) <= ed25519.SignatureSize {
		return verifyRaw(key, message, signature)
	}
	last := signature[len(signature)-ed25519.SignatureSize:]
	kind, space, hash := []byte("ssh-ed25519"), []byte("gridpact"), []byte("sha512")
	blob := sshStrings("SSHSIG\x00\x00\x00\x01", sshStrings("", kind, key), space, nil, hash, sshStrings("", kind, last))
	if !bytes.Equal(blob, signature) {
		return false
	}
	digest := sha512.Sum512(message)
	return verifyRaw(key, sshStrings("SSHSIG", space, nil, hash, digest[:]), last)
}

// openDocument gives who signed what, of an envelope of this kind.
func openDocument(data []byte, kind string) (*document, error) {
	payload, signer, signature, err := openEnvelope(data)
	if err != nil {
		return nil, err
	}
	value, err := parseExact(payload, "payload")
	if err != nil {
		return nil, err
	}
	statement, err := asDict(value, "payload",
		map[string]byte{"_type": 's', "subject": 'l', "predicateType": 's', "predicate": 'm'})
	if err != nil {
		return nil, err
	}
	if statement["_type"] != statementType || statement["predicateType"] != "urn:gridpact:"+kind+":v1" {
		return nil, refuse("document.kind", "%v", statement["predicateType"])
	}
	name, digest, err := openSubject(statement["subject"].(list))
	if err != nil {
		return nil, err
	}
	predicate := statement["predicate"].(dict)
	if err := checkPredicate(kind, predicate, name, digest); err != nil {
		return nil, err
	}
	key, _ := hex.DecodeString(signer)
	if !isSigned(key, pae(payload), signature) {
		return nil, refuse("document.signature", "not this key's over this payload")
	}
	return &document{hex.EncodeToString(sum(payload)), signer, digest, predicate}, nil
}

func openSubject(subjects list) (name, digest string, err error) {
	if len(subjects) != 1 {
		return "", "", refuse("document.subject", "exactly one wanted")
	}
	subject, err := asDict(subjects[0], "subject", map[string]byte{"name": 's', "digest": 'm'})
	if err != nil {
		return "", "", err
	}
	digests, err := asDict(subject["digest"], "digest", map[string]byte{"sha256": 's'})
	if err != nil {
		return "", "", err
	}
	digest = digests["sha256"].(string)
	if !hex64.MatchString(digest) {
		return "", "", refuse("document.subject", "%q", digest)
	}
	return subject["name"].(string), digest, nil
}

func checkPredicate(kind string, predicate dict, name, digest string) error {
	switch kind {
	case "approval":
		shape := map[string]byte{"chain_id": 's', "deployment": 's', "act": 's',
			"role": 's', "decision": 's', "expires_ms": 'i', "comment": 's', "made_ms": 'i', "update": 'i'}
		if predicate["act"] == "release" {
			shape["results"] = 's'
		}
		_, err := asDict(predicate, "predicate", shape)
		if err == nil && name != "manifest" {
			return refuse("document.subject", "%q", name)
		}
		return err
	case "contract":
		inside, err := asDict(predicate, "predicate", map[string]byte{"contract": 'm'})
		if err != nil {
			return err
		}
		contract := inside["contract"].(dict)
		isIts := hex.EncodeToString(sum(canonical(contract))) == digest
		if !isIts || name != fmt.Sprintf("%v@%v", contract["name"], contract["version"]) {
			return refuse("document.subject", "not that of the contract inside")
		}
	}
	return nil
}

// openApproval gives an approval of this chain.
func openApproval(chainID string, data []byte) (*document, error) {
	found, err := openDocument(data, "approval")
	if err == nil && found.predicate["chain_id"] != chainID {
		return nil, refuse("approval.foreign_chain", "%v", found.predicate["chain_id"])
	}
	return found, err
}

// signApproval makes a stakeholder's envelope that grants a deployment; its id is the second result.
func signApproval(key ed25519.PrivateKey, chainID, deployment, role string, manifest []byte) ([]byte, string) {
	payload := canonical(dict{
		"_type":         statementType,
		"predicateType": "urn:gridpact:approval:v1",
		"subject":       list{dict{"name": "manifest", "digest": dict{"sha256": hex.EncodeToString(manifest)}}},
		"predicate": dict{"chain_id": chainID, "deployment": deployment, "act": "deploy", "role": role,
			"decision": "granted", "expires_ms": 0, "comment": "", "made_ms": time.Now().UnixMilli(), "update": 0},
	})
	signature := base64.StdEncoding.EncodeToString(ed25519.Sign(key, pae(payload)))
	envelope := canonical(dict{
		"payload":     base64.StdEncoding.EncodeToString(payload),
		"payloadType": payloadType,
		"signatures":  list{dict{"keyid": hex.EncodeToString(public(key)), "sig": signature}},
	})
	return envelope, hex.EncodeToString(sum(payload))
}

// spoiled gives an envelope with another signature: one letter of it is changed.
func spoiled(envelope []byte) []byte {
	at := bytes.Index(envelope, []byte(`"sig":"`)) + len(`"sig":"`)
	other := bytes.Clone(envelope)
	other[at] = map[bool]byte{true: 'B', false: 'A'}[other[at] == 'A']
	return other
}
