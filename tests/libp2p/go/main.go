// SPDX-License-Identifier: GPL-2.0-or-later

// peer is a stock libp2p node for the tests: go-libp2p, pubsub, boxo's bitswap and the LAN DHT, as their makers ship
// them. It reads one JSON object a line on stdin and answers each with one on stdout; what comes by itself is an
// object with the key "event". With -group it also behaves as a member of a Berty group does (member.go).
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/dual"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	mh "github.com/multiformats/go-multihash"
)

const echoProtocol = "/mesh-relay-test/echo/1"

type obj map[string]any

var (
	outMu sync.Mutex
	enc   = json.NewEncoder(os.Stdout)
)

func out(o obj) {
	outMu.Lock()
	defer outMu.Unlock()
	_ = enc.Encode(o)
}

func check(err error) {
	if err != nil {
		out(obj{"event": "fatal", "error": err.Error()})
		os.Exit(1)
	}
}

type command struct {
	ID      int      `json:"id"`
	Do      string   `json:"do"`
	Addr    string   `json:"addr"`
	Peer    string   `json:"peer"`
	Data    string   `json:"data"` // hexadecimal
	CID     string   `json:"cid"`
	CIDs    []string `json:"cids"`
	Topic   string   `json:"topic"`
	Text    string   `json:"text"`
	Count   int      `json:"count"`
	Bytes   int      `json:"bytes"`
	Seconds float64  `json:"seconds"`
}

type node struct {
	ctx    context.Context
	h      host.Host
	dht    *dht.IpfsDHT
	store  blockstore.Blockstore
	bs     *bitswap.Bitswap
	ps     *pubsub.PubSub
	mu     sync.Mutex
	topics map[string]*pubsub.Topic
	member *member
}

func (n *node) HandlePeerFound(i peer.AddrInfo) {
	go func() {
		ctx, cancel := context.WithTimeout(n.ctx, 15*time.Second)
		defer cancel()
		if err := n.h.Connect(ctx, i); err == nil {
			out(obj{"event": "met", "peer": i.ID.String()})
		}
	}()
}

func (n *node) topic(name string) (*pubsub.Topic, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := n.topics[name]; t != nil {
		return t, nil
	}
	t, err := n.ps.Join(name)
	if err == nil {
		n.topics[name] = t
	}
	return t, err
}

// echo opens count streams at once, writes bytes to each, closes its side and expects them back and the end.
func (n *node) echo(ctx context.Context, p peer.ID, count, size int) error {
	var all sync.WaitGroup
	failed := make(chan error, count)
	for range count {
		all.Add(1)
		go func() {
			defer all.Done()
			s, err := n.h.NewStream(ctx, p, echoProtocol)
			if err != nil {
				failed <- fmt.Errorf("open: %w", err)
				return
			}
			defer s.Close()
			sent := make([]byte, size)
			_, _ = rand.Read(sent)
			written := make(chan error, 1)
			go func() {
				_, err := s.Write(sent)
				if err == nil {
					err = s.CloseWrite()
				}
				written <- err
			}()
			if d, ok := ctx.Deadline(); ok {
				_ = s.SetReadDeadline(d)
			}
			got, err := io.ReadAll(s)
			if err != nil {
				failed <- fmt.Errorf("read: %w", err)
			} else if err := <-written; err != nil {
				failed <- fmt.Errorf("write: %w", err)
			} else if !bytes.Equal(got, sent) {
				failed <- fmt.Errorf("%d bytes of %d came back", len(got), len(sent))
			}
		}()
	}
	all.Wait()
	close(failed)
	return <-failed
}

func (n *node) put(data []byte) (cid.Cid, error) {
	hash, err := mh.Sum(data, mh.SHA2_256, -1)
	if err != nil {
		return cid.Undef, err
	}
	b, err := blocks.NewBlockWithCid(data, cid.NewCidV1(cid.Raw, hash))
	if err == nil {
		err = n.store.Put(n.ctx, b)
	}
	if err == nil {
		err = n.bs.NotifyNewBlocks(n.ctx, b)
	}
	return b.Cid(), err
}

func (n *node) run(c command) (obj, error) {
	seconds := c.Seconds
	if seconds == 0 {
		seconds = 20
	}
	ctx, cancel := context.WithTimeout(n.ctx, time.Duration(seconds*float64(time.Second)))
	defer cancel()
	var p peer.ID
	if c.Peer != "" {
		var err error
		if p, err = peer.Decode(c.Peer); err != nil {
			return nil, err
		}
	}
	data, err := hex.DecodeString(c.Data)
	if err != nil {
		return nil, err
	}
	switch c.Do {
	case "info":
		addrs := []string{}
		for _, a := range n.h.Addrs() {
			addrs = append(addrs, fmt.Sprintf("%s/p2p/%s", a, n.h.ID()))
		}
		return obj{"peer": n.h.ID().String(), "addrs": addrs}, nil
	case "connect":
		i, err := peer.AddrInfoFromString(c.Addr)
		if err != nil {
			return nil, err
		}
		return obj{}, n.h.Connect(ctx, *i)
	case "disconnect":
		return obj{}, n.h.Network().ClosePeer(p)
	case "peers":
		l := []string{}
		for _, p := range n.h.Network().Peers() {
			l = append(l, p.String())
		}
		return obj{"peers": l}, nil
	case "ping":
		r := <-ping.Ping(ctx, n.h, p)
		return obj{"ms": float64(r.RTT.Microseconds()) / 1000}, r.Error
	case "identified":
		protocols, err := n.h.Peerstore().GetProtocols(p)
		agent, _ := n.h.Peerstore().Get(p, "AgentVersion")
		addrs := []string{}
		for _, a := range n.h.Peerstore().Addrs(p) {
			addrs = append(addrs, a.String())
		}
		return obj{"protocols": protocols, "agent": agent, "addrs": addrs}, err
	case "echo":
		return obj{}, n.echo(ctx, p, c.Count, c.Bytes)
	case "reset": // opens streams, writes, and resets them
		for range c.Count {
			s, err := n.h.NewStream(ctx, p, echoProtocol)
			if err != nil {
				return nil, err
			}
			_, _ = s.Write(make([]byte, c.Bytes))
			_ = s.Reset()
		}
		return obj{}, nil
	case "slow": // writes bytes, waits, and reads only then
		s, err := n.h.NewStream(ctx, p, echoProtocol)
		if err != nil {
			return nil, err
		}
		defer s.Close()
		go func() {
			_, _ = s.Write(make([]byte, c.Bytes))
			_ = s.CloseWrite()
		}()
		time.Sleep(2 * time.Second)
		got, err := io.ReadAll(s)
		return obj{"bytes": len(got)}, err
	case "open": // asks for a protocol, and says what comes of it
		s, err := n.h.NewStream(ctx, p, "/mesh-relay-test/unknown/1")
		if err == nil {
			_ = s.Reset()
		}
		return obj{"refused": err != nil}, nil
	case "put":
		k, err := n.put(data)
		return obj{"cid": k.String()}, err
	case "put_many": // blocks of c.Bytes random bytes
		l := []string{}
		for range c.Count {
			b := make([]byte, c.Bytes)
			_, _ = rand.Read(b)
			k, err := n.put(b)
			if err != nil {
				return nil, err
			}
			l = append(l, k.String())
		}
		return obj{"cids": l}, nil
	case "get":
		k, err := cid.Decode(c.CID)
		if err != nil {
			return nil, err
		}
		b, err := n.bs.GetBlock(ctx, k)
		if err != nil {
			return nil, err
		}
		return obj{"data": hex.EncodeToString(b.RawData())}, nil
	case "get_many":
		keys := []cid.Cid{}
		for _, text := range c.CIDs {
			k, err := cid.Decode(text)
			if err != nil {
				return nil, err
			}
			keys = append(keys, k)
		}
		began := time.Now()
		ch, err := n.bs.GetBlocks(ctx, keys)
		if err != nil {
			return nil, err
		}
		got := 0
		for range ch {
			got++
		}
		return obj{"blocks": got, "seconds": time.Since(began).Seconds()}, nil
	case "provide":
		k, err := cid.Decode(c.CID)
		if err != nil {
			return nil, err
		}
		return obj{}, n.dht.Provide(ctx, k, true)
	case "providers":
		k, err := cid.Decode(c.CID)
		if err != nil {
			return nil, err
		}
		l := []string{}
		for i := range n.dht.FindProvidersAsync(ctx, k, 1) {
			l = append(l, i.ID.String())
		}
		return obj{"peers": l}, nil
	case "subscribe":
		t, err := n.topic(c.Topic)
		if err != nil {
			return nil, err
		}
		sub, err := t.Subscribe()
		if err != nil {
			return nil, err
		}
		go func() {
			for {
				m, err := sub.Next(n.ctx)
				if err != nil {
					return
				}
				if m.ReceivedFrom != n.h.ID() {
					out(obj{"event": "published", "topic": c.Topic, "data": hex.EncodeToString(m.Data), "from": m.GetFrom().String()})
				}
			}
		}()
		return obj{}, nil
	case "publish":
		t, err := n.topic(c.Topic)
		if err != nil {
			return nil, err
		}
		return obj{}, t.Publish(ctx, data)
	case "subscribers":
		t, err := n.topic(c.Topic)
		if err != nil {
			return nil, err
		}
		l := []string{}
		for _, p := range t.ListPeers() {
			l = append(l, p.String())
		}
		return obj{"peers": l}, nil
	case "direct":
		return obj{}, give(ctx, n.h, p, data)
	case "say":
		return obj{}, n.member.say(c.Text)
	case "give": // its seal, and returns once it was read: what a relay has of it then is never lost
		return obj{}, give(ctx, n.h, p, n.member.seal())
	case "heads":
		return obj{"cids": n.member.headCIDs()}, nil
	case "texts":
		return obj{"texts": n.member.texts()}, nil
	}
	return nil, errors.New("no such command")
}

func main() {
	withMDNS := flag.Bool("mdns", false, "find and be found")
	listen := flag.String("listen", "/ip4/127.0.0.1/tcp/0", "multiaddress to listen on")
	group := flag.String("group", "", "be a member of this Berty group")
	keep := flag.String("keep", "", "folder of what the member keeps")
	flag.Parse()
	ctx := context.Background()
	limits, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(rcmgr.InfiniteLimits))
	check(err)
	// TCP, yamux and Noise alone: each is then what is tested.
	h, err := libp2p.New(libp2p.DisableRelay(), libp2p.ListenAddrStrings(*listen), libp2p.Transport(tcp.NewTCPTransport),
		libp2p.ResourceManager(limits))
	check(err)
	n := &node{ctx: ctx, h: h, topics: map[string]*pubsub.Topic{}}
	n.dht, err = dht.New(ctx, h, dht.ProtocolExtension(dual.LanExtension), dht.Mode(dht.ModeServer),
		dht.QueryFilter(dht.PrivateQueryFilter), dht.RoutingTableFilter(dht.PrivateRoutingTableFilter))
	check(err)
	n.store = blockstore.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore()))
	n.bs = bitswap.New(ctx, bsnet.NewFromIpfsHost(h), nil, n.store)
	n.ps, err = pubsub.NewGossipSub(ctx, h, pubsub.WithMessageSigning(true))
	check(err)
	h.SetStreamHandler(echoProtocol, func(s network.Stream) {
		_, _ = io.Copy(s, s)
		_ = s.Close()
	})
	onDirect := func(p peer.ID, payload []byte) {
		out(obj{"event": "direct", "from": p.String(), "data": hex.EncodeToString(payload)})
	}
	if *group != "" {
		n.member, err = join(n, *group, *keep)
		check(err)
		onDirect = n.member.onSeal
	}
	h.SetStreamHandler(directChannel, func(s network.Stream) { take(s, onDirect) })
	if *withMDNS {
		check(mdns.NewMdnsService(h, "", n).Start())
	}
	h.Network().Notify(&network.NotifyBundle{DisconnectedF: func(_ network.Network, c network.Conn) {
		out(obj{"event": "left", "peer": c.RemotePeer().String()})
	}})
	out(obj{"event": "ready", "peer": h.ID().String()})
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var c command
		check(json.Unmarshal(lines.Bytes(), &c))
		go func() {
			answer, err := n.run(c)
			if answer == nil {
				answer = obj{}
			}
			answer["id"] = c.ID
			if err != nil {
				answer["error"] = err.Error()
			}
			out(answer)
		}()
	}
}
