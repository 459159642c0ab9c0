package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
)

// Canonical JSON: UTF-8, keys sorted, no spaces, whole numbers: docs/wire.md, "Values".

var wholeNumber = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)

func canonical(value any) []byte { return appendJSON(nil, value) }

func appendJSON(out []byte, value any) []byte {
	switch v := value.(type) {
	case nil:
		return append(out, "null"...)
	case bool:
		return strconv.AppendBool(out, v)
	case int:
		return strconv.AppendInt(out, int64(v), 10)
	case int64:
		return strconv.AppendInt(out, v, 10)
	case json.Number:
		return append(out, v...)
	case string:
		return appendText(out, v)
	case list:
		out = append(out, '[')
		for i, item := range v {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendJSON(out, item)
		}
		return append(out, ']')
	case dict:
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		sort.Strings(names)
		out = append(out, '{')
		for i, name := range names {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendJSON(append(appendText(out, name), ':'), v[name])
		}
		return append(out, '}')
	}
	panic(fmt.Sprintf("json: %T", value))
}

// appendText escapes what JSON demands and nothing else; the package's own escapes more (U+2028).
func appendText(out []byte, text string) []byte {
	short := map[byte]byte{'"': '"', '\\': '\\', '\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}
	out = append(out, '"')
	for i := 0; i < len(text); i++ {
		c := text[i]
		if letter, isShort := short[c]; isShort {
			out = append(out, '\\', letter)
		} else if c < 0x20 {
			out = fmt.Appendf(out, "\\u%04x", c)
		} else {
			out = append(out, c)
		}
	}
	return append(out, '"')
}

// parseExact gives foreign JSON that is its own canonical form: no spaces, double keys, other spellings.
func parseExact(data []byte, what string) (any, error) {
	value, err := parseJSON(data)
	if err != nil {
		return nil, refuse("document.malformed", "%s: %v", what, err)
	}
	if !bytes.Equal(canonical(value), data) {
		return nil, refuse("document.not_canonical", "%s", what)
	}
	return value, nil
}

func parseJSON(data []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, fmt.Errorf("bytes after the value")
	}
	return value, wholeNumbers(value)
}

func wholeNumbers(value any) error {
	switch v := value.(type) {
	case json.Number:
		if !wholeNumber.MatchString(string(v)) {
			return fmt.Errorf("%s is no whole number", v)
		}
	case list:
		for _, item := range v {
			if err := wholeNumbers(item); err != nil {
				return err
			}
		}
	case dict:
		for _, item := range v {
			if err := wholeNumbers(item); err != nil {
				return err
			}
		}
	}
	return nil
}

// asDict gives an object with exactly these fields, each of its kind: s text, i integer, l list, m object.
func asDict(value any, what string, shape map[string]byte) (dict, error) {
	object, isDict := value.(dict)
	if !isDict || len(object) != len(shape) {
		return nil, refuse("document.malformed", "%s: an object of %d fields wanted", what, len(shape))
	}
	for name, kind := range shape {
		isRight := false
		switch kind {
		case 's':
			_, isRight = object[name].(string)
		case 'i':
			_, isRight = object[name].(json.Number)
		case 'l':
			_, isRight = object[name].(list)
		case 'm':
			_, isRight = object[name].(dict)
		}
		if !isRight {
			return nil, refuse("document.malformed", "%s.%s", what, name)
		}
	}
	return object, nil
}
