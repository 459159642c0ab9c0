package main

import (
	"bytes"
	"encoding/binary"
	"math"
	"sort"
	"unicode/utf8"
)

// Binary values of the wire: docs/wire.md, "Values". One value has one encoding; any other is refused.
// nil, bool, int64 (uint64 beyond it), string, []byte, list, dict.
type list = []any
type dict = map[string]any

const depthMax = 32

func encode(value any) []byte { return put(nil, value) }

func sized(out []byte, size int, fix byte, fixMax int, code8, code16 byte) []byte {
	switch {
	case size < fixMax:
		return append(out, fix|byte(size))
	case code8 != 0 && size < 1<<8:
		return append(out, code8, byte(size))
	case size < 1<<16:
		return binary.BigEndian.AppendUint16(append(out, code16), uint16(size))
	}
	return binary.BigEndian.AppendUint32(append(out, code16+1), uint32(size))
}

func put(out []byte, value any) []byte {
	switch v := value.(type) {
	case nil:
		return append(out, 0xc0)
	case bool:
		if v {
			return append(out, 0xc3)
		}
		return append(out, 0xc2)
	case int:
		return put(out, int64(v))
	case int64:
		return putInteger(out, v)
	case uint64:
		if v <= math.MaxInt64 {
			return putInteger(out, int64(v))
		}
		return binary.BigEndian.AppendUint64(append(out, 0xcf), v)
	case string:
		return append(sized(out, len(v), 0xa0, 32, 0xd9, 0xda), v...)
	case []byte:
		return append(sized(out, len(v), 0, 0, 0xc4, 0xc5), v...)
	case list:
		out = sized(out, len(v), 0x90, 16, 0, 0xdc)
		for _, item := range v {
			out = put(out, item)
		}
		return out
	case dict:
		out = sized(out, len(v), 0x80, 16, 0, 0xde)
		keys := make([]string, 0, len(v))
		for key := range v {
			keys = append(keys, key)
		}
		sort.Strings(keys)
		for _, key := range keys {
			out = put(put(out, key), v[key])
		}
		return out
	}
	panic("msgpack: a value of a kind that is not on the wire")
}

func putInteger(out []byte, v int64) []byte {
	b := binary.BigEndian
	switch {
	case v >= 0 && v < 1<<7, v < 0 && v >= -32:
		return append(out, byte(v))
	case v >= 0 && v < 1<<8:
		return append(out, 0xcc, byte(v))
	case v >= 0 && v < 1<<16:
		return b.AppendUint16(append(out, 0xcd), uint16(v))
	case v >= 0 && v < 1<<32:
		return b.AppendUint32(append(out, 0xce), uint32(v))
	case v >= 0:
		return b.AppendUint64(append(out, 0xcf), uint64(v))
	case v >= math.MinInt8:
		return append(out, 0xd0, byte(v))
	case v >= math.MinInt16:
		return b.AppendUint16(append(out, 0xd1), uint16(v))
	case v >= math.MinInt32:
		return b.AppendUint32(append(out, 0xd2), uint32(v))
	}
	return b.AppendUint64(append(out, 0xd3), uint64(v))
}

type reader struct {
	data []byte
	at   int
}

func (r *reader) take(size uint64) ([]byte, error) {
	if size > uint64(len(r.data)-r.at) {
		return nil, refuse("msgpack.short", "%d bytes at %d", size, r.at)
	}
	from := r.at
	r.at += int(size)
	return r.data[from:r.at:r.at], nil
}

func (r *reader) unsigned(width int) (uint64, error) {
	part, err := r.take(uint64(width))
	number := uint64(0)
	for _, b := range part {
		number = number<<8 | uint64(b)
	}
	return number, err
}

func (r *reader) value(depth int) (any, error) {
	head, err := r.take(1)
	if err != nil || depth > depthMax {
		return nil, refuse("msgpack.short", "at %d, depth %d", r.at, depth)
	}
	code := head[0]
	switch {
	case code < 0x80:
		return int64(code), nil
	case code < 0x90:
		return r.dict(uint64(code&15), depth)
	case code < 0xa0:
		return r.list(uint64(code&15), depth)
	case code < 0xc0:
		return r.text(uint64(code & 31))
	case code >= 0xe0:
		return int64(int8(code)), nil
	case code == 0xc0:
		return nil, nil
	case code == 0xc2, code == 0xc3:
		return code == 0xc3, nil
	case code >= 0xc4 && code <= 0xc6:
		size, err := r.unsigned(1 << (code - 0xc4))
		if err != nil {
			return nil, err
		}
		return r.take(size)
	case code >= 0xcc && code <= 0xcf:
		number, err := r.unsigned(1 << (code - 0xcc))
		if number > math.MaxInt64 {
			return number, err
		}
		return int64(number), err
	case code >= 0xd0 && code <= 0xd3:
		width := 1 << (code - 0xd0)
		number, err := r.unsigned(width)
		shift := 64 - 8*width
		return int64(number<<shift) >> shift, err
	case code >= 0xd9 && code <= 0xdf:
		return r.long(code, depth)
	}
	return nil, refuse("msgpack.code", "0x%x", code)
}

func (r *reader) long(code byte, depth int) (any, error) {
	width := map[byte]int{0xd9: 1, 0xda: 2, 0xdb: 4, 0xdc: 2, 0xdd: 4, 0xde: 2, 0xdf: 4}[code]
	size, err := r.unsigned(width)
	switch {
	case err != nil:
		return nil, err
	case code <= 0xdb:
		return r.text(size)
	case code <= 0xdd:
		return r.list(size, depth)
	}
	return r.dict(size, depth)
}

func (r *reader) text(size uint64) (any, error) {
	part, err := r.take(size)
	if err == nil && !utf8.Valid(part) {
		err = refuse("msgpack.text", "no UTF-8")
	}
	return string(part), err
}

func (r *reader) list(size uint64, depth int) (any, error) {
	items := list{}
	for ; size > 0; size-- { // ends early on short bytes
		item, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

func (r *reader) dict(size uint64, depth int) (any, error) {
	entries := dict{}
	for ; size > 0; size-- {
		key, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		name, isText := key.(string)
		if _, isDouble := entries[name]; !isText || isDouble {
			return nil, refuse("msgpack.key", "%v", key)
		}
		if entries[name], err = r.value(depth + 1); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// decodeExact gives the value of foreign bytes that are its one encoding.
func decodeExact(data []byte, what string) (any, error) {
	r := &reader{data: data}
	value, err := r.value(0)
	if err != nil {
		return nil, refuse(what+".malformed", "%v", err)
	}
	if r.at != len(data) {
		return nil, refuse(what+".malformed", "bytes after the value")
	}
	if !bytes.Equal(encode(value), data) {
		return nil, refuse(what+".not_canonical", "not the one encoding of the value")
	}
	return value, nil
}

// row is an array as a struct, its kinds checked: i integer, s text, b bytes, l list, m map.
type row list

func (r row) integer(i int) int64 { return r[i].(int64) }
func (r row) text(i int) string   { return r[i].(string) }
func (r row) bytes(i int) []byte  { return r[i].([]byte) }
func (r row) list(i int) list     { return r[i].(list) }

func asRow(value any, what, kinds string) (row, error) {
	items, isList := value.(list)
	if !isList || len(items) != len(kinds) {
		return nil, refuse(what+".malformed", "an array of %d wanted", len(kinds))
	}
	for i, kind := range kinds {
		isRight := false
		switch kind {
		case 'i':
			_, isRight = items[i].(int64)
		case 's':
			_, isRight = items[i].(string)
		case 'b':
			_, isRight = items[i].([]byte)
		case 'l':
			_, isRight = items[i].(list)
		case 'm':
			_, isRight = items[i].(dict)
		}
		if !isRight {
			return nil, refuse(what+".malformed", "field %d", i)
		}
	}
	return row(items), nil
}

// decodeRow is decodeExact and asRow.
func decodeRow(data []byte, what, kinds string) (row, error) {
	value, err := decodeExact(data, what)
	if err != nil {
		return nil, err
	}
	return asRow(value, what, kinds)
}

// allBytes gives the items of a list that must all be byte strings.
func allBytes(items list, what string) ([][]byte, error) {
	found := make([][]byte, len(items))
	for i, item := range items {
		data, isBytes := item.([]byte)
		if !isBytes {
			return nil, refuse(what+".malformed", "item %d", i)
		}
		found[i] = data
	}
	return found, nil
}
