package resp

import (
	"bytes"
	"strings"
)

// What has been asked for last. Of what a Sentinel answers the driver takes the elements
// and the words for granted that it is used to.
const (
	anything  int32 = iota
	something       // without gaps: HELLO, and the rest of what a Sentinel is asked
	masterAddress
	subscription // for good
)

var (
	askMaster = []byte("*3\r\n$8\r\nsentinel\r\n$23\r\nget-master-addr-by-name\r\n")
	// Behind the number of words:
	askHello     = []byte("$5\r\nhello\r\n")
	askSentinel  = []byte("$8\r\nsentinel\r\n")
	askSubscribe = []byte("$9\r\nsubscribe\r\n")
)

func questionOf(p []byte) int32 {
	words := p[min(4, len(p)):]
	switch {
	case bytes.HasPrefix(words, askSubscribe):
		return subscription
	case bytes.HasPrefix(p, askMaster):
		return masterAddress
	case bytes.HasPrefix(words, askHello), bytes.HasPrefix(words, askSentinel):
		return something
	}
	return anything
}

// words are a reply that is kept until it was looked at.
type words struct {
	list []word
	size int
}

type word struct {
	kind byte
	text []byte // with its line end
}

// maxWords bounds what is kept.
const maxWords = 4 << 10

func (g *Guard) word(kind byte) {
	if g.question.Load() > something && len(g.list) < 8 {
		g.list = append(g.list, word{kind: kind})
	}
}

func (g *Guard) keep(p []byte) {
	if n := len(g.list); n > 0 && g.size+len(p) <= maxWords {
		g.size += len(p)
		g.list[n-1].text = append(g.list[n-1].text, p...)
	}
}

// answer looks at the reply that is complete now.
func (g *Guard) answer() error {
	if len(g.list) == 0 {
		return nil
	}
	kinds, texts := "", make([]string, len(g.list))
	for i, w := range g.list {
		kinds += string(w.kind)
		texts[i] = strings.TrimSuffix(string(w.text), "\r\n")
	}
	g.words = words{}
	aggregate := strings.ContainsAny(kinds[:1], "*~>%")
	switch g.question.Load() {
	case masterAddress:
		if aggregate && kinds != "*$$" {
			return ErrMalformed
		}
	case subscription:
		if aggregate && (strings.Contains("~%", kinds[:1]) || !message(kinds[1:], texts[1:])) {
			return ErrMalformed
		}
	}
	return nil
}

// message tells whether this is what comes on a subscription, kind by kind and word by word.
func message(kinds string, texts []string) bool {
	switch kinds {
	case "$$:", "$_:":
		return texts[0] == "subscribe" || texts[0] == "unsubscribe"
	case "$$$":
		// https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/#pubsub-messages
		return texts[0] == "message" && (texts[1] != "+switch-master" || strings.Count(texts[2], " ") == 4)
	case "$$":
		return texts[0] == "pong"
	}
	return false
}
