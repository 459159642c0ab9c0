package main

import (
	"crypto/ed25519"
	"crypto/sha256"
)

// Hashes and Ed25519 signatures under a domain tag: docs/wire.md, "Hashes and signatures".

func sum(parts ...[]byte) []byte {
	digest := sha256.New()
	for _, part := range parts {
		digest.Write(part)
	}
	return digest.Sum(nil)
}

func hashTagged(domain string, data []byte) []byte {
	return sum([]byte("gridpact/"+domain+"\x00"), data)
}

func tagged(domain, chainID string, message []byte) []byte {
	return append([]byte("gridpact/"+domain+"\x00"+chainID+"\x00"), message...)
}

// verifyRaw never panics on foreign bytes.
func verifyRaw(key, message, signature []byte) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, signature)
}

func verify(key []byte, domain, chainID string, message, signature []byte) bool {
	return verifyRaw(key, tagged(domain, chainID, message), signature)
}

func sign(key ed25519.PrivateKey, domain, chainID string, message []byte) []byte {
	return ed25519.Sign(key, tagged(domain, chainID, message))
}

func public(key ed25519.PrivateKey) []byte { return key.Public().(ed25519.PublicKey) }
