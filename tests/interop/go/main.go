// A go-libp2p peer that meets a gridpact network: commands on stdin, reports on stdout, both JSON lines
// (../README.md). It believes nothing that it cannot check from genesis.json.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
)

var saying sync.Mutex

func say(line dict) {
	saying.Lock()
	defer saying.Unlock()
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	_, _ = os.Stdout.Write(append(text, '\n')) // who does not read us is gone
}

// reply says how a command ended.
func reply(id int, found dict, err error) {
	line := dict{"id": id, "ok": err == nil}
	for name, it := range found {
		line[name] = it
	}
	var rule refused
	if errors.As(err, &rule) {
		line["rule"], line["detail"] = rule.rule, rule.detail
	} else if err != nil {
		line["rule"], line["detail"] = "error", err.Error()
	}
	say(line)
}

type command struct {
	ID          int    `json:"id"`
	Do          string `json:"do"`
	Address     string `json:"address"`
	ChainID     string `json:"chain_id"`
	Peer        string `json:"peer"`
	Height      int64  `json:"height"`
	Tx          string `json:"tx"`
	Header      string `json:"header"`
	Certificate string `json:"certificate"`
	Envelope    string `json:"envelope"`
	Seed        string `json:"seed"`
	Deployment  string `json:"deployment"`
	Role        string `json:"role"`
	Spoil       string `json:"spoil"`
	To          string `json:"to"`
	Amount      int64  `json:"amount"`
	Kind        string `json:"kind"`
	Data        string `json:"data"`
	Method      string `json:"method"`
	Body        string `json:"body"`
	SHA256      string `json:"sha256"`
}

func run(file string, signing pubsub.MessageSignaturePolicy) error {
	known, err := readGenesis(file)
	if err != nil {
		return err
	}
	node, err := begin(known, signing)
	if err != nil {
		return err
	}
	reply(0, dict{"genesis": fmt.Sprintf("%x", known.hash), "peer": node.host.ID().String()}, nil)
	commands := map[string]func(command) (dict, error){
		"join": node.join, "follow": node.follow, "final": node.final, "check_certificate": node.checkCertificate,
		"check_approval": node.checkApproval, "approve": node.approve, "transfer": node.transfer,
		"gossip": node.gossip, "request": node.request, "artifact": node.artifact, "stop": node.stop,
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 8<<20)
	for lines.Scan() {
		var words command
		if err := json.Unmarshal(lines.Bytes(), &words); err != nil {
			return err
		}
		do, isKnown := commands[words.Do]
		if !isKnown {
			reply(words.ID, nil, refuse("command.unknown", "%s", words.Do))
			continue
		}
		found, err := do(words)
		reply(words.ID, found, err)
		if words.Do == "stop" {
			break
		}
	}
	return lines.Err()
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: peer GENESIS.JSON [unsigned]")
		os.Exit(2)
	}
	signing := pubsub.StrictSign
	if len(os.Args) > 2 && os.Args[2] == "unsigned" {
		signing = pubsub.StrictNoSign
	}
	if err := run(os.Args[1], signing); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
