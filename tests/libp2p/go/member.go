// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	cbornode "github.com/ipfs/go-ipld-cbor"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	mh "github.com/multiformats/go-multihash"
	"golang.org/x/crypto/nacl/secretbox"
	"google.golang.org/protobuf/encoding/protowire"
)

const directChannel = "/go-orbit-db/direct-channel/1.2.0"

// give sends a payload by the direct channel, and returns nil only when the other side has read it all.
func give(ctx context.Context, h host.Host, p peer.ID, payload []byte) error {
	s, err := h.NewStream(ctx, p, directChannel)
	if err != nil {
		return err
	}
	_ = s.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err = s.Write(append(binary.AppendUvarint(nil, uint64(len(payload))), payload...)); err != nil {
		_ = s.Reset()
		return err
	}
	_ = s.CloseWrite()
	if _, err = s.Read(make([]byte, 1)); errors.Is(err, network.ErrReset) || err == io.EOF {
		return nil
	}
	_ = s.Reset()
	return fmt.Errorf("no answer: %w", err)
}

func take(s network.Stream, on func(peer.ID, []byte)) {
	defer s.Reset() // as go-orbit-db does
	b := bufio.NewReader(s)
	size, err := binary.ReadUvarint(b)
	if err != nil || size > 4<<20 {
		return
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(b, payload); err == nil {
		on(s.Conn().RemotePeer(), payload)
	}
}

// An entry of a group's log: its text is sealed with the group's secret, which no relay has; its links lie open, and
// the log that it is of, which is the name of the topic.
type entry struct {
	ID   string `refmt:"id"`
	Box  []byte
	Next []cid.Cid
}

func init() { cbornode.RegisterCborType(entry{}) }

// A member of one group, as the facts say: entries are dag-cbor blocks that link to those before them, heads are
// announced sealed under the link key, on the topic at each write and by the direct channel to who subscribes; new
// blocks are announced to the LAN DHT; a text counts as here only once all its ancestors are.
type member struct {
	n        *node
	name     string
	dir      string
	linkKey  [32]byte
	secret   [32]byte
	rotation []byte
	topic    *pubsub.Topic

	mu    sync.Mutex
	heads []cid.Cid
	have  map[cid.Cid]string // text by entry, whose ancestors are all here
}

func join(n *node, group, dir string) (*member, error) {
	m := &member{n: n, name: group, dir: dir, have: map[cid.Cid]string{}}
	m.linkKey = sha256.Sum256([]byte("link key " + group))
	m.secret = sha256.Sum256([]byte("secret " + group))
	public := sha256.Sum256([]byte("public key " + group))
	rotation := sha256.Sum256([]byte("rotation " + group))
	m.rotation = rotation[:]
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	kept, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range kept {
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		k, err := cid.Decode(e.Name())
		if err != nil {
			return nil, err
		}
		b, err := blocks.NewBlockWithCid(raw, k)
		if err != nil {
			return nil, err
		}
		if err := n.store.Put(n.ctx, b); err != nil {
			return nil, err
		}
	}
	for _, e := range kept {
		k, _ := cid.Decode(e.Name())
		m.gather(k)
	}
	m.mu.Lock()
	m.findHeads()
	m.mu.Unlock()
	topic := fmt.Sprintf("/orbitdb/bafyreiabcdefghijklmnopqrstuvwxyz234567/%s_wesh_group_messages", hex.EncodeToString(public[:]))
	t, err := n.ps.Join(topic)
	if err != nil {
		return nil, err
	}
	m.topic = t
	sub, err := t.Subscribe()
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			msg, err := sub.Next(n.ctx)
			if err != nil {
				return
			}
			if msg.ReceivedFrom != n.h.ID() {
				m.onSeal(msg.GetFrom(), msg.Data)
			}
		}
	}()
	joined, err := t.EventHandler()
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			e, err := joined.NextPeerEvent(n.ctx)
			if err != nil {
				return
			}
			if e.Type == pubsub.PeerJoin {
				go m.greet(e.Peer)
			}
		}
	}()
	return m, nil
}

func (m *member) greet(p peer.ID) {
	seal := m.seal()
	if seal == nil {
		return
	}
	ctx, cancel := context.WithTimeout(m.n.ctx, 10*time.Second)
	defer cancel()
	if err := give(ctx, m.n.h, p, seal); err == nil {
		out(obj{"event": "greeted", "peer": p.String()})
	}
	// All blocks are announced a while after the start (a minute in the real one).
	time.Sleep(2 * time.Second)
	m.mu.Lock()
	keys := make([]cid.Cid, 0, len(m.have))
	for k := range m.have {
		keys = append(keys, k)
	}
	m.mu.Unlock()
	for _, k := range keys {
		m.provide(k)
	}
}

func (m *member) provide(k cid.Cid) {
	ctx, cancel := context.WithTimeout(m.n.ctx, 5*time.Second)
	defer cancel()
	_ = m.n.dht.Provide(ctx, k, true)
}

func (m *member) findHeads() {
	linked := map[cid.Cid]bool{}
	for k := range m.have {
		if e, err := m.read(k); err == nil {
			for _, next := range e.Next {
				linked[next] = true
			}
		}
	}
	m.heads = nil
	for k := range m.have {
		if !linked[k] {
			m.heads = append(m.heads, k)
		}
	}
}

func (m *member) read(k cid.Cid) (*entry, error) {
	b, err := m.n.store.Get(m.n.ctx, k)
	if err != nil {
		return nil, err
	}
	e := &entry{}
	return e, cbornode.DecodeInto(b.RawData(), e)
}

// gather fetches an entry and all its ancestors; only then its texts count. Returns whether all are here.
func (m *member) gather(k cid.Cid) bool {
	m.mu.Lock()
	_, known := m.have[k]
	m.mu.Unlock()
	if known {
		return true
	}
	if has, _ := m.n.store.Has(m.n.ctx, k); !has {
		ctx, cancel := context.WithTimeout(m.n.ctx, 30*time.Second)
		defer cancel()
		b, err := m.n.bs.GetBlock(ctx, k)
		if err != nil {
			return false
		}
		if err := m.n.store.Put(m.n.ctx, b); err != nil {
			return false
		}
		if err := m.save(b); err != nil {
			return false
		}
	}
	e, err := m.read(k)
	if err != nil {
		return false
	}
	for _, next := range e.Next {
		if !m.gather(next) {
			return false
		}
	}
	var nonce [24]byte
	copy(nonce[:], e.Box)
	text, ok := secretbox.Open(nil, e.Box[24:], &nonce, &m.secret)
	if !ok {
		return false
	}
	m.mu.Lock()
	_, known = m.have[k]
	m.have[k] = string(text)
	m.mu.Unlock()
	if !known {
		out(obj{"event": "text", "text": string(text)})
	}
	return true
}

func (m *member) save(b blocks.Block) error {
	return os.WriteFile(filepath.Join(m.dir, b.Cid().String()), b.RawData(), 0o600)
}

func (m *member) say(text string) error {
	var nonce [24]byte
	_, _ = rand.Read(nonce[:])
	m.mu.Lock()
	e := &entry{ID: m.topic.String(), Box: secretbox.Seal(nonce[:], []byte(text), &nonce, &m.secret), Next: slices.Clone(m.heads)}
	m.mu.Unlock()
	c, err := cbornode.WrapObject(e, mh.SHA2_256, -1)
	if err != nil {
		return err
	}
	if err := m.n.store.Put(m.n.ctx, c); err != nil {
		return err
	}
	if err := m.save(c); err != nil {
		return err
	}
	if err := m.n.bs.NotifyNewBlocks(m.n.ctx, c); err != nil {
		return err
	}
	m.mu.Lock()
	m.have[c.Cid()] = text
	m.heads = []cid.Cid{c.Cid()}
	m.mu.Unlock()
	go m.provide(c.Cid())
	return m.topic.Publish(m.n.ctx, m.seal())
}

func (m *member) headCIDs() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := []string{}
	for _, k := range m.heads {
		l = append(l, k.String())
	}
	return l
}

func (m *member) texts() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := []string{}
	for _, t := range m.have {
		l = append(l, t)
	}
	slices.Sort(l)
	return l
}

// seal is OrbitDBMessageHeads { sealed_box = 2, raw_rotation = 3 }: the box holds the heads under the link key.
func (m *member) seal() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.heads) == 0 {
		return nil
	}
	heads := []byte{}
	for _, k := range m.heads {
		heads = protowire.AppendTag(heads, 1, protowire.BytesType)
		heads = protowire.AppendBytes(heads, k.Bytes())
	}
	var nonce [24]byte
	_, _ = rand.Read(nonce[:])
	seal := protowire.AppendTag(nil, 2, protowire.BytesType)
	seal = protowire.AppendBytes(seal, secretbox.Seal(nonce[:], heads, &nonce, &m.linkKey))
	seal = protowire.AppendTag(seal, 3, protowire.BytesType)
	return protowire.AppendBytes(seal, m.rotation)
}

func (m *member) onSeal(_ peer.ID, payload []byte) {
	var box []byte
	for len(payload) > 0 {
		num, typ, n := protowire.ConsumeTag(payload)
		if n < 0 || typ != protowire.BytesType {
			return
		}
		v, size := protowire.ConsumeBytes(payload[n:])
		if size < 0 {
			return
		}
		if num == 2 {
			box = v
		}
		payload = payload[n+size:]
	}
	if len(box) < 24 {
		return
	}
	var nonce [24]byte
	copy(nonce[:], box)
	heads, ok := secretbox.Open(nil, box[24:], &nonce, &m.linkKey)
	if !ok {
		return
	}
	for len(heads) > 0 {
		_, _, n := protowire.ConsumeTag(heads)
		if n < 0 {
			return
		}
		v, size := protowire.ConsumeBytes(heads[n:])
		if size < 0 {
			return
		}
		heads = heads[n+size:]
		k, err := cid.Cast(v)
		if err != nil {
			return
		}
		if m.gather(k) {
			m.mu.Lock()
			m.findHeads()
			m.mu.Unlock()
		}
	}
}
