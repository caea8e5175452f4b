package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// v3 is a connection of paho.mqtt.golang.
type v3 struct {
	client mqtt.Client
	// The library has no way to end a connection without a DISCONNECT.
	socket  net.Conn
	resumed bool
}

func connect3(s settings, o options, inbox chan message) (connection, error) {
	it := &v3{}
	made := mqtt.NewClientOptions().
		AddBroker(fmt.Sprintf("tcp://%s:%d", s.Host, s.Port)).
		SetProtocolVersion(uint(s.Version)).
		SetClientID(s.Prefix + "-" + o.name).
		SetUsername(s.Username).
		SetPassword(o.password).
		SetCleanSession(!o.lasting).
		SetAutoReconnect(false).
		SetConnectTimeout(deadline).
		SetCustomOpenConnectionFn(func(server *url.URL, _ mqtt.ClientOptions) (net.Conn, error) {
			socket, err := net.DialTimeout("tcp", server.Host, deadline)
			it.socket = socket
			return socket, err
		}).
		SetDefaultPublishHandler(func(_ mqtt.Client, got mqtt.Message) {
			inbox <- message{got.Payload(), got.Qos(), got.Retained()}
		})
	if o.will != "" {
		made.SetWill(o.will, "gone", 1, false)
	}
	it.client = mqtt.NewClient(made)
	token := it.client.Connect().(*mqtt.ConnectToken)
	if err := wait(token); err != nil {
		return nil, err
	}
	it.resumed = token.SessionPresent()
	return it, nil
}

func wait(token mqtt.Token) error {
	if !token.WaitTimeout(deadline) {
		return errors.New("no answer")
	}
	return token.Error()
}

func (it *v3) subscribe(filter string, qos byte) (byte, error) {
	token := it.client.Subscribe(filter, qos, nil).(*mqtt.SubscribeToken)
	err := wait(token)
	return token.Result()[filter], err
}

func (it *v3) send(topic string, payload []byte, qos byte) error {
	it.client.Publish(topic, qos, false, payload)
	return nil
}

func (it *v3) publish(topic string, payload []byte, qos byte, retain bool) error {
	return wait(it.client.Publish(topic, qos, retain, payload))
}

func (it *v3) present() bool { return it.resumed }
func (it *v3) kill()         { it.socket.Close() }
func (it *v3) close()        { it.client.Disconnect(250) }
