package main

import (
	"context"
	"fmt"
	"net"

	"github.com/eclipse/paho.golang/paho"
)

// v5 is a connection of paho.golang.
type v5 struct {
	client  *paho.Client
	socket  net.Conn
	resumed bool
}

func connect5(s settings, o options, inbox chan message) (connection, error) {
	socket, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", s.Host, s.Port), deadline)
	if err != nil {
		return nil, err
	}
	client := paho.NewClient(paho.ClientConfig{
		Conn:          socket,
		PacketTimeout: deadline,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(got paho.PublishReceived) (bool, error) {
				inbox <- message{got.Packet.Payload, got.Packet.QoS, got.Packet.Retain}
				return true, nil
			},
		},
	})
	packet := &paho.Connect{
		ClientID:     s.Prefix + "-" + o.name,
		KeepAlive:    60,
		CleanStart:   !o.lasting,
		Username:     s.Username,
		UsernameFlag: true,
		Password:     []byte(o.password),
		PasswordFlag: true,
	}
	if o.lasting {
		expiry := uint32(300)
		packet.Properties = &paho.ConnectProperties{SessionExpiryInterval: &expiry}
	}
	if o.will != "" {
		packet.WillMessage = &paho.WillMessage{Topic: o.will, Payload: []byte("gone"), QoS: 1}
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	connack, err := client.Connect(ctx, packet)
	if err != nil && connack != nil {
		return nil, fmt.Errorf("reason code %#x: %w", connack.ReasonCode, err)
	}
	if err != nil {
		return nil, err
	}
	return &v5{client, socket, connack.SessionPresent}, nil
}

func (it *v5) subscribe(filter string, qos byte) (byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	packet := &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: qos}}}
	suback, err := it.client.Subscribe(ctx, packet)
	if suback == nil {
		return 0, err
	}
	return suback.Reasons[0], err
}

func (it *v5) send(topic string, payload []byte, qos byte) error {
	// It waits only until the window that the broker gives has a place.
	return it.sent(&paho.Publish{Topic: topic, Payload: payload, QoS: qos}, paho.PublishMethod_AsyncSend)
}

func (it *v5) publish(topic string, payload []byte, qos byte, retain bool) error {
	packet := &paho.Publish{Topic: topic, Payload: payload, QoS: qos, Retain: retain}
	return it.sent(packet, paho.PublishMethod_Blocking)
}

func (it *v5) sent(packet *paho.Publish, method paho.PublishMethod) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	_, err := it.client.PublishWithOptions(ctx, packet, paho.PublishOptions{Method: method})
	return err
}

func (it *v5) present() bool { return it.resumed }
func (it *v5) kill()         { it.socket.Close() }
func (it *v5) close()        { must(it.client.Disconnect(&paho.Disconnect{})) }
