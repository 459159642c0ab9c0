package main

import (
	"encoding/binary"
	"io"
)

// The frames of our two streams: docs/wire.md, "Frames".

type kind byte

const (
	kindHello kind = 1 + iota
	kindData
	kindAck
	kindPing
	kindPong
	kindRequest
	kindResponse
	kindGoodbye

	kindMore = 0x80

	frameMax   = 65_500 // a whole frame; bodies of one message that need more are split
	bodyMax    = frameMax - 5
	messageMax = 1_048_576 + 4_096
)

func (k kind) isCounted() bool {
	return k == kindHello || k == kindData || k == kindRequest || k == kindResponse
}

// encodeMessage gives the frames of one message, one after the other.
func encodeMessage(of kind, body []byte) []byte {
	out := []byte{}
	for {
		part := body[:min(len(body), bodyMax)]
		body = body[len(part):]
		code := of
		if len(body) > 0 {
			code |= kindMore
		}
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(part)+1)), byte(code))
		out = append(out, part...)
		if len(body) == 0 {
			return out
		}
	}
}

// frameReader turns one stream into messages. counted: the bytes that credit acknowledges.
type frameReader struct {
	from    io.Reader
	counted uint64
}

func (f *frameReader) frame() (code kind, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(f.from, head[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(head[:])
	if length < 1 {
		return 0, nil, refuse("frame.empty", "length 0")
	}
	if length+4 > frameMax {
		return 0, nil, refuse("frame.too_long", "%d", length+4)
	}
	body = make([]byte, length-1)
	_, err = io.ReadFull(f.from, body)
	return kind(head[4]), body, err
}

// next gives one message; control frames may stand between the parts of another, so they come as they are.
func (f *frameReader) next(control func(kind, []byte) error) (kind, []byte, error) {
	var whole []byte
	partsKind := kind(0)
	for {
		code, body, err := f.frame()
		if err != nil {
			return 0, nil, err
		}
		of := code &^ kindMore
		if of < kindHello || of > kindGoodbye {
			return 0, nil, refuse("frame.unknown_kind", "%d", of)
		}
		if !of.isCounted() {
			if err := control(of, body); err != nil {
				return 0, nil, err
			}
			continue
		}
		f.counted += uint64(len(body)) + 5
		if partsKind != 0 && partsKind != of {
			return 0, nil, refuse("frame.split", "%d within %d", of, partsKind)
		}
		partsKind = of
		if whole = append(whole, body...); len(whole) > messageMax {
			return 0, nil, refuse("frame.too_long", "%d", len(whole))
		}
		if code&kindMore == 0 {
			return of, whole, nil
		}
	}
}
