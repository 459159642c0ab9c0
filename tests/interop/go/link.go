package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A link to a neighbour: two streams, the hello, answers to its heartbeat, requests: docs/wire.md, "Links".

const (
	consensusProtocol = "/gridpact/consensus/1"
	bulkProtocol      = "/gridpact/bulk/1"
	ackEvery          = 262_144
	helloTime         = 10 * time.Second
	answerTime        = 20 * time.Second
)

// lane is one stream of a link: messages in and out, bytes acknowledged.
type lane struct {
	stream  network.Stream
	writing sync.Mutex
}

func (l *lane) send(of kind, body []byte) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	_, err := l.stream.Write(encodeMessage(of, body))
	return err
}

func (l *lane) run(onMessage func(kind, []byte)) error {
	frames, acknowledged := &frameReader{from: l.stream}, uint64(0)
	control := func(of kind, body []byte) error {
		switch of {
		case kindPing:
			return l.send(kindPong, body)
		case kindGoodbye:
			return refuse(string(body), "")
		}
		return nil
	}
	for {
		of, body, err := frames.next(control)
		if err != nil {
			return err
		}
		onMessage(of, body)
		if frames.counted-acknowledged >= ackEvery {
			acknowledged = frames.counted
			if err := l.send(kindAck, binary.BigEndian.AppendUint64(nil, acknowledged)); err != nil {
				return err
			}
		}
	}
}

type answer struct {
	status byte
	body   []byte
}

type link struct {
	bulk   *lane
	hello  chan []byte
	ended  chan struct{}
	reason error // when ended is closed

	mutex   sync.Mutex
	nextID  uint32
	answers map[uint32]chan answer
}

// words are what we say of ourselves in a hello.
type words struct {
	chainID string
	genesis []byte
}

type helloReport struct {
	ChainID     string `json:"chain_id"`
	Moniker     string `json:"moniker"`
	Roles       list   `json:"roles"`
	Height      int64  `json:"height"`
	IsValidator bool   `json:"is_validator"`
}

var instance = func() []byte { // of this start
	made := make([]byte, 16)
	_, _ = rand.Read(made) // never fails
	return made
}()

// openLink gives a neighbour whose hello was accepted, and that accepted ours; or the reason that it names.
func openLink(ctx context.Context, self host.Host, to peer.ID, g *genesis, said words) (*link, *helloReport, error) {
	made := &link{hello: make(chan []byte, 1), ended: make(chan struct{}), answers: map[uint32]chan answer{}}
	stream, err := self.NewStream(ctx, to, consensusProtocol)
	if err != nil {
		return nil, nil, err
	}
	consensus := &lane{stream: stream}
	text := encode(list{1, said.chainID, said.genesis, "go", list{"observer"}, 0, []byte{}, []byte{}})
	if err := consensus.send(kindHello, append(append([]byte{1}, instance...), text...)); err != nil {
		return nil, nil, err
	}
	run := func(of *lane) {
		made.end(of.run(made.onMessage))
		_ = of.stream.Conn().Close() // it may be closed already
	}
	go run(consensus)
	var report *helloReport
	select {
	case body := <-made.hello:
		if report, err = openHello(g, body, to, self.ID()); err != nil {
			return nil, nil, err
		}
	case <-made.ended:
		return nil, nil, made.reason
	case <-time.After(helloTime):
		return nil, nil, refuse("timeout", "no hello")
	}
	if stream, err = self.NewStream(ctx, to, bulkProtocol); err != nil {
		return nil, nil, made.reasonOr(err)
	}
	made.bulk = &lane{stream: stream}
	go run(made.bulk)
	// Answered only once we are its neighbour.
	if _, err = made.request("p2p/addresses", nil); err != nil {
		return nil, nil, made.reasonOr(err)
	}
	return made, report, nil
}

// openHello checks the neighbour's first words.
func openHello(g *genesis, body []byte, speaker, hearer peer.ID) (*helloReport, error) {
	if len(body) < 17 || body[0] != 1 {
		return nil, refuse("hello.version", "version 1 wanted")
	}
	// protocol, chain id, genesis, moniker, roles, height, validator, proof
	hello, err := decodeRow(body[17:], "hello", "isbslibb")
	if err != nil {
		return nil, err
	}
	if hello.text(1) != g.chainID || !bytes.Equal(hello.bytes(2), g.hash) {
		return nil, refuse("hello.foreign_chain", "%s", hello.text(1))
	}
	report := &helloReport{ChainID: hello.text(1), Moniker: hello.text(3), Roles: hello.list(4), Height: hello.integer(5)}
	if key := hello.bytes(6); len(key) > 0 {
		message := append(rawKey(speaker), rawKey(hearer)...)
		if !verify(key, "hello/1", g.chainID, message, hello.bytes(7)) {
			return nil, refuse("hello.proof", "not the validator key's over both peers")
		}
		for _, member := range g.set.members {
			report.IsValidator = report.IsValidator || bytes.Equal(member.key, key)
		}
	}
	return report, nil
}

// rawKey gives the 32 bytes of the Ed25519 key inside a peer id.
func rawKey(of peer.ID) []byte {
	key, err := of.ExtractPublicKey()
	if err != nil {
		return make([]byte, ed25519.PublicKeySize) // no key of ours: nothing verifies under it
	}
	raw, _ := key.Raw()
	return raw
}

func (l *link) end(reason error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	select {
	case <-l.ended:
	default:
		l.reason = reason
		close(l.ended)
	}
}

// reasonOr gives why the link ended, when the peer says so soon; else the error.
func (l *link) reasonOr(err error) error {
	select {
	case <-l.ended:
		return l.reason
	case <-time.After(time.Second):
		return err
	}
}

// request gives a neighbour's answer, or the rule by which it refuses.
func (l *link) request(method string, body []byte) ([]byte, error) {
	coming := make(chan answer, 1)
	l.mutex.Lock()
	id := l.nextID
	l.nextID++
	l.answers[id] = coming
	l.mutex.Unlock()
	defer func() {
		l.mutex.Lock()
		delete(l.answers, id)
		l.mutex.Unlock()
	}()
	head := append(binary.BigEndian.AppendUint32(nil, id), byte(len(method)))
	if err := l.bulk.send(kindRequest, append(append(head, method...), body...)); err != nil {
		return nil, err
	}
	select {
	case got := <-coming:
		switch got.status {
		case 0:
			return got.body, nil
		case 1:
			rule, detail, _ := strings.Cut(string(got.body), ": ")
			return nil, refuse(rule, "%s", detail)
		}
		return nil, refuse("busy", "try later")
	case <-l.ended:
		return nil, l.reason
	case <-time.After(answerTime):
		return nil, refuse("timeout", "%s", method)
	}
}

func (l *link) onMessage(of kind, body []byte) {
	switch {
	case of == kindHello:
		select {
		case l.hello <- body:
		default: // twice: not ours to judge here
		}
	case of == kindResponse && len(body) >= 5:
		l.mutex.Lock()
		coming := l.answers[binary.BigEndian.Uint32(body)]
		l.mutex.Unlock()
		if coming != nil {
			select {
			case coming <- answer{body[4], body[5:]}:
			default: // answered already
			}
		}
	case of == kindRequest && len(body) >= 5:
		l.onRequest(body)
	}
	// DATA on the bulk stream is a hint of a new tip: we ask when we want to know.
}

func (l *link) onRequest(body []byte) {
	method := string(body[5:min(len(body), 5+int(body[4]))])
	reply := append(bytes.Clone(body[:4]), 0)
	if method != "p2p/addresses" { // nobody can dial us, so that list is empty
		reply = append(append(bytes.Clone(body[:4]), 1), "request.method: not served here"...)
	}
	_ = l.bulk.send(kindResponse, reply) // a broken stream ends the link where it is read
}
