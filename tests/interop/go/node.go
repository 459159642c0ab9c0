package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pubsubpb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
)

const (
	rangeBytes = 524_288
	waitTime   = 20 * time.Second
)

// node is the peer at work; its methods are the commands.
type node struct {
	host       host.Host
	identified event.Subscription
	mutex      sync.Mutex // gossip is judged beside the commands
	chain      *chain
	topics     map[string]*pubsub.Topic // by kind
	links      map[string]*link         // by peer id
}

func kindOf(tag string) string {
	switch tag {
	case "contract.publish":
		return "contracts"
	case "approval.decide":
		return "approvals"
	}
	return "transactions"
}

func begin(g *genesis, signing pubsub.MessageSignaturePolicy) (*node, error) {
	self, err := libp2p.New(libp2p.NoListenAddrs, libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(noise.ID, noise.New), libp2p.Muxer(yamux.ID, yamux.DefaultTransport), libp2p.DisableRelay())
	if err != nil {
		return nil, err
	}
	identified, err := self.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted))
	if err != nil {
		return nil, err
	}
	messageID := func(of *pubsubpb.Message) string {
		return string(sum([]byte(of.GetTopic()+"\x00"), of.GetData()))
	}
	gossip, err := pubsub.NewGossipSub(context.Background(), self, pubsub.WithMessageIdFn(messageID),
		pubsub.WithMessageSignaturePolicy(signing))
	if err != nil {
		return nil, err
	}
	made := &node{host: self, identified: identified, chain: newChain(g), topics: map[string]*pubsub.Topic{},
		links: map[string]*link{}}
	for _, kind := range []string{"contracts", "approvals", "transactions", "blocks"} {
		name := fmt.Sprintf("/gridpact/%s/%s/1", g.chainID, kind)
		if err := gossip.RegisterTopicValidator(name, made.judge(kind)); err != nil {
			return nil, err
		}
		if made.topics[kind], err = gossip.Join(name); err != nil {
			return nil, err
		}
		heard, err := made.topics[kind].Subscribe()
		if err != nil {
			return nil, err
		}
		go func() { // what was judged is reported already
			for _, err := heard.Next(context.Background()); err == nil; _, err = heard.Next(context.Background()) {
			}
		}()
	}
	return made, nil
}

// judge reports and answers our own judgement of what others bring.
func (n *node) judge(kind string) pubsub.ValidatorEx {
	return func(_ context.Context, from peer.ID, message *pubsub.Message) pubsub.ValidationResult {
		if from == n.host.ID() {
			return pubsub.ValidationAccept // what is wrong on purpose must leave here
		}
		shown, err := n.read(kind, message.Data)
		if err != nil {
			var rule refused
			if !errors.As(err, &rule) {
				panic(err) // ours, not theirs
			}
			// Of an epoch that we have not followed into we cannot tell: that is nobody's fault.
			verdict, answer := "reject", pubsub.ValidationReject
			if rule.rule == "light.unknown_epoch" {
				verdict, answer = "ignore", pubsub.ValidationIgnore
			}
			say(dict{"event": "gossip", "kind": kind, "verdict": verdict, "rule": rule.rule})
			return answer
		}
		line := dict{"event": "gossip", "kind": kind, "verdict": "accept"}
		for name, it := range shown {
			line[name] = it
		}
		say(line)
		return pubsub.ValidationAccept
	}
}

func (n *node) read(kind string, data []byte) (dict, error) {
	g := n.chain.genesis
	if kind == "blocks" {
		announced, err := decodeRow(data, "announce", "bb")
		if err != nil {
			return nil, err
		}
		return n.checked(announced.bytes(0), announced.bytes(1))
	}
	tx, err := g.openTx(data)
	if err != nil {
		return nil, err
	}
	if kindOf(tx.tag) != kind {
		return nil, refuse("gossip.topic", "%s", tx.tag)
	}
	shown := dict{"tx": hex.EncodeToString(tx.id), "tag": tx.tag}
	if kind == "transactions" {
		return shown, nil
	}
	body, err := asRow(tx.body, "tx", "b")
	if err != nil {
		return nil, err
	}
	var opened *document
	if kind == "approvals" {
		opened, err = openApproval(g.chainID, body.bytes(0))
	} else {
		opened, err = openDocument(body.bytes(0), "contract")
	}
	if err != nil {
		return nil, err
	}
	shown["document"] = opened.id
	return shown, nil
}

// checked proves a header by its certificate.
func (n *node) checked(head, certificate []byte) (dict, error) {
	n.mutex.Lock()
	sets := n.chain.sets
	n.mutex.Unlock()
	opened, err := decodeHeader(n.chain.chainID, sets, head)
	if err != nil {
		return nil, err
	}
	weight, err := checkCertificate(opened, certificate)
	return dict{"height": opened.height, "epoch": opened.epoch, "hash": hex.EncodeToString(opened.hash), "weight": weight}, err
}

func (n *node) join(words command) (dict, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	to, err := peer.AddrInfoFromString(words.Address)
	if err != nil {
		return nil, err
	}
	if err := n.host.Connect(ctx, *to); err != nil {
		return nil, err
	}
	state := n.host.Network().ConnsToPeer(to.ID)[0].ConnState()
	who, err := n.identify(ctx, to.ID)
	if err != nil {
		return nil, err
	}
	pong := <-ping.Ping(ctx, n.host, to.ID)
	if pong.Error != nil {
		return nil, pong.Error
	}
	said := saidOf(n.chain.genesis, words.ChainID)
	made, hello, err := openLink(ctx, n.host, to.ID, n.chain.genesis, said)
	if err != nil {
		return nil, err
	}
	n.links[to.ID.String()] = made
	if err := n.untilSubscribed(ctx, to.ID); err != nil {
		return nil, err
	}
	return dict{"peer": to.ID.String(), "security": state.Security, "muxer": state.StreamMultiplexer,
		"agent": who.AgentVersion, "protocols": who.Protocols, "ping_ms": pong.RTT.Milliseconds(), "hello": hello}, nil
}

func saidOf(g *genesis, chainID string) words {
	if chainID == "" {
		chainID = g.chainID
	}
	return words{chainID, g.hash}
}

func (n *node) identify(ctx context.Context, of peer.ID) (*event.EvtPeerIdentificationCompleted, error) {
	for {
		select {
		case it := <-n.identified.Out():
			if done := it.(event.EvtPeerIdentificationCompleted); done.Peer == of {
				return &done, nil
			}
		case <-ctx.Done():
			return nil, refuse("timeout", "identify")
		}
	}
}

func (n *node) untilSubscribed(ctx context.Context, to peer.ID) error {
	for _, topic := range n.topics {
		for isThere := false; !isThere; {
			for _, it := range topic.ListPeers() {
				isThere = isThere || it == to
			}
			select {
			case <-ctx.Done():
				return refuse("timeout", "the peer subscribes to our topics")
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

func (n *node) link(to string) (*link, error) {
	found := n.links[to]
	if found == nil {
		return nil, refuse("link.none", "not joined")
	}
	return found, nil
}

// follow fetches blocks from our tip on to the peer's, each proved; words.Height: wait for that one.
func (n *node) follow(words command) (dict, error) {
	to, err := n.link(words.Peer)
	if err != nil {
		return nil, err
	}
	fetchBatch := func(digest []byte) ([]byte, error) { return to.request("batch", digest) }
	deadline, blocks := time.Now().Add(waitTime), 0
	for {
		raw, err := to.request("blocks", encode(list{n.chain.tip.height + 1, rangeBytes, 0}))
		if err != nil {
			return nil, err
		}
		n.mutex.Lock()
		found, err := n.chain.extend(raw, fetchBatch)
		n.mutex.Unlock()
		if err != nil {
			return nil, err
		}
		if blocks += found; found > 0 {
			continue
		}
		if n.chain.tip.height >= words.Height {
			tip := n.chain.tip
			return dict{"height": tip.height, "hash": hex.EncodeToString(tip.hash), "blocks": blocks,
				"txs": len(n.chain.heights), "epoch": len(n.chain.sets) - 1}, nil
		}
		if time.Now().After(deadline) {
			return nil, refuse("timeout", "height %d", words.Height)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// final tells where the proved chain has a transaction.
func (n *node) final(words command) (dict, error) {
	height, isThere := n.chain.heights[words.Tx]
	if !isThere {
		return nil, refuse("tx.unknown", "not in the blocks that were fetched")
	}
	return dict{"height": height}, nil
}

func (n *node) checkCertificate(words command) (dict, error) {
	head, certificate, err := fromHex(words.Header, words.Certificate)
	if err != nil {
		return nil, err
	}
	return n.checked(head, certificate)
}

func (n *node) checkApproval(words command) (dict, error) {
	envelope, _, err := fromHex(words.Envelope, "")
	if err != nil {
		return nil, err
	}
	opened, err := openApproval(n.chain.chainID, envelope)
	if err != nil {
		return nil, err
	}
	return dict{"document": opened.id, "signer": opened.signer, "subject": opened.subject, "predicate": opened.predicate}, nil
}

// approve gossips a stakeholder's approval; the manifest's digest is what the final order names.
func (n *node) approve(words command) (dict, error) {
	order := n.chain.bodies[words.Deployment]
	if order == nil || order.tag != "deployment.order" {
		return nil, refuse("approval.unknown_deployment", "not in the blocks that were fetched")
	}
	its, err := asRow(order.body, "tx", "bmmbib") // contract, parameters, roles, manifest, escrow, bot
	if err != nil {
		return nil, err
	}
	key, err := keyOf(words.Seed)
	if err != nil {
		return nil, err
	}
	envelope, id := signApproval(key, n.chain.chainID, words.Deployment, words.Role, its.bytes(3))
	if words.Spoil == "document" {
		envelope = spoiled(envelope)
	}
	sent, err := n.send(key, list{"approval.decide", envelope}, words.Spoil)
	if err == nil {
		sent["document"] = id
	}
	return sent, err
}

func (n *node) transfer(words command) (dict, error) {
	key, err := keyOf(words.Seed)
	if err != nil {
		return nil, err
	}
	to, _, err := fromHex(words.To, "")
	if err != nil {
		return nil, err
	}
	return n.send(key, list{"transfer", to, words.Amount}, words.Spoil)
}

// send signs and gossips. spoil: "signature" breaks it, "chain" signs for another chain.
func (n *node) send(key ed25519.PrivateKey, body list, spoil string) (dict, error) {
	chainID, salt := n.chain.chainID, make([]byte, 8)
	if spoil == "chain" {
		chainID = "elsewhere"
	}
	_, _ = rand.Read(salt) // never fails
	raw, id := signTx(key, chainID, n.chain.tip.height+100, salt, body)
	if spoil == "signature" {
		raw[len(raw)-1] ^= 1
	}
	if err := n.topics[kindOf(body[0].(string))].Publish(context.Background(), raw); err != nil {
		return nil, err
	}
	return dict{"tx": hex.EncodeToString(id), "raw": hex.EncodeToString(raw)}, nil
}

func (n *node) gossip(words command) (dict, error) {
	data, _, err := fromHex(words.Data, "")
	if err != nil {
		return nil, err
	}
	topic := n.topics[words.Kind]
	if topic == nil {
		return nil, refuse("command.kind", "%s", words.Kind)
	}
	return dict{}, topic.Publish(context.Background(), data)
}

func (n *node) request(words command) (dict, error) {
	to, err := n.link(words.Peer)
	if err != nil {
		return nil, err
	}
	body, _, err := fromHex(words.Body, "")
	if err != nil {
		return nil, err
	}
	found, err := to.request(words.Method, body)
	return dict{"body": hex.EncodeToString(found)}, err
}

func (n *node) stop(command) (dict, error) { return dict{}, n.host.Close() }

func keyOf(seed string) (ed25519.PrivateKey, error) {
	raw, err := hex.DecodeString(seed)
	if err != nil || len(raw) != ed25519.SeedSize {
		return nil, refuse("command.seed", "32 bytes in hex")
	}
	return ed25519.NewKeyFromSeed(raw), nil
}

func fromHex(one, other string) ([]byte, []byte, error) {
	a, err := hex.DecodeString(one)
	if err != nil {
		return nil, nil, err
	}
	b, err := hex.DecodeString(other)
	return a, b, err
}
