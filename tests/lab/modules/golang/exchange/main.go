// Command exchange shows what Eclipse's two Go clients see of a broker: paho.mqtt.golang speaks 3.1 and 3.1.1,
// paho.golang speaks 5. The argument is the settings as JSON; what happened is printed as JSON.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

const deadline = 30 * time.Second

type settings struct {
	Host, Username, Password, Token, Wrong, Prefix string
	Port, Version                                  int
}

type message struct {
	payload []byte
	qos     byte
	retain  bool
}

// options of one connection; its client id is the prefix and the name.
type options struct {
	name, password, will string
	lasting              bool
}

// connection is what the two libraries have in common.
type connection interface {
	subscribe(filter string, qos byte) (granted byte, err error)
	// send does not wait for the acknowledgement, publish does.
	send(topic string, payload []byte, qos byte) error
	publish(topic string, payload []byte, qos byte, retain bool) error
	present() bool
	kill()
	close()
}

// client is a connection and everything that it receives.
type client struct {
	connection
	inbox chan message
}

type facts map[string]any

type run struct {
	settings
	connect func(settings, options, chan message) (connection, error)
	speaker *client
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (r *run) topic(name string) string { return "t/" + r.Prefix + "/" + name }

func (r *run) open(o options) *client {
	if o.password == "" {
		o.password = r.Token
	}
	inbox := make(chan message, 4096)
	opened, err := r.connect(r.settings, o, inbox)
	must(err)
	return &client{opened, inbox}
}

func (c *client) subscribed(filter string, qos byte) byte {
	granted, err := c.subscribe(filter, qos)
	must(err)
	return granted
}

func (c *client) take() message {
	select {
	case got := <-c.inbox:
		return got
	case <-time.After(deadline):
		panic("no message")
	}
}

func (r *run) publish(name, payload string, qos byte, retain bool) {
	must(r.speaker.publish(r.topic(name), []byte(payload), qos, retain))
}

func (r *run) refusal(password string) string {
	opened, err := r.connect(r.settings, options{name: "refused", password: password}, make(chan message, 1))
	if err != nil {
		return err.Error()
	}
	opened.close()
	return "let in"
}

func (r *run) qualities() any {
	found := facts{}
	for granted := byte(0); granted < 3; granted++ {
		listener := r.open(options{name: fmt.Sprintf("granted%d", granted)})
		answer := listener.subscribed(r.topic("qos"), granted)
		for published := byte(0); published < 3; published++ {
			r.publish("qos", "quality", published, false)
			found[fmt.Sprintf("%d to %d", published, answer)] = listener.take().qos
		}
		listener.close()
	}
	return found
}

func (r *run) retained() any {
	shown := func(m message) any { return []any{string(m.payload), m.retain} }
	r.publish("retained", "old", 1, true)
	r.publish("retained", "kept", 1, true)
	late := r.open(options{name: "late"})
	late.subscribed(r.topic("retained"), 1)
	kept := late.take()
	r.publish("retained", "", 1, true)
	live := late.take()
	late.close()
	later := r.open(options{name: "later"})
	later.subscribed(r.topic("retained"), 1)
	later.subscribed(r.topic("marker"), 1)
	r.publish("marker", "marker", 1, false)
	first := later.take()
	later.close()
	return facts{"kept": shown(kept), "live": shown(live), "after": string(first.payload)}
}

func (r *run) will() any {
	heir := r.open(options{name: "heir"})
	defer heir.close()
	heir.subscribed(r.topic("will"), 1)
	r.open(options{name: "victim", will: r.topic("will")}).kill()
	return string(heir.take().payload)
}

func (r *run) away() any {
	before := r.open(options{name: "away", lasting: true})
	before.subscribed(r.topic("away"), 2)
	before.close()
	for number := 0; number < 20; number++ {
		r.publish("away", strconv.Itoa(number), byte(1+number%2), false)
	}
	after := r.open(options{name: "away", lasting: true})
	inOrder := true
	// Each quality in its order: a library may hand out a message of QoS 2 when its exchange is over.
	next := map[byte]int{1: 0, 2: 1}
	for number := 0; number < 20; number++ {
		got := after.take()
		inOrder = inOrder && string(got.payload) == strconv.Itoa(next[got.qos])
		next[got.qos] += 2
	}
	after.close()
	r.open(options{name: "away"}).close()
	return facts{"present": []bool{before.present(), after.present()}, "inOrder": inOrder}
}

func (r *run) large() any {
	both := r.open(options{name: "both"})
	defer both.close()
	both.subscribed(r.topic("large"), 2)
	payload := make([]byte, 1000*1000)
	for index := range payload {
		payload[index] = byte(index*31 + index>>8)
	}
	found := []bool{}
	for qos := byte(0); qos < 3; qos++ {
		must(both.publish(r.topic("large"), payload, qos, false))
		found = append(found, bytes.Equal(both.take().payload, payload))
	}
	return found
}

func (r *run) ordered() any {
	found := facts{}
	for qos := byte(0); qos < 3; qos++ {
		topic := r.topic(fmt.Sprintf("ordered/%d", qos))
		listener := r.open(options{name: fmt.Sprintf("ordered%d", qos)})
		listener.subscribed(topic, qos)
		for number := 0; number < 1000; number++ {
			must(r.speaker.send(topic, []byte(strconv.Itoa(number)), qos))
		}
		inOrder := 0
		for number := 0; number < 1000; number++ {
			if string(listener.take().payload) == strconv.Itoa(number) {
				inOrder++
			}
		}
		listener.close()
		found[strconv.Itoa(int(qos))] = inOrder
	}
	return found
}

func (r *run) denied() any {
	granted, err := r.speaker.subscribe("other/#", 1)
	if err != nil {
		return facts{"subscribe": err.Error()}
	}
	return facts{"subscribe": granted}
}

func main() {
	r := run{connect: connect3}
	must(json.Unmarshal([]byte(os.Args[1]), &r.settings))
	if r.Version == 5 {
		r.connect = connect5
	}
	found := facts{"wrong": r.refusal(r.Wrong)}
	r.open(options{name: "password", password: r.Password}).close()
	found["password"] = "connected"
	r.speaker = r.open(options{name: "speaker"})
	found["token"] = "connected"
	found["qos"] = r.qualities()
	found["retained"] = r.retained()
	found["will"] = r.will()
	found["away"] = r.away()
	found["large"] = r.large()
	found["ordered"] = r.ordered()
	found["denied"] = r.denied()
	r.speaker.close()
	must(json.NewEncoder(os.Stdout).Encode(found))
}
