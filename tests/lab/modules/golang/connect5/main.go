// Command connect5 publishes and receives one message in MQTT 5. The argument is host and port.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	socket, err := net.Dial("tcp", os.Args[1])
	check(err)
	came := make(chan *paho.Publish, 1)
	client := paho.NewClient(paho.ClientConfig{
		Conn: socket,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(received paho.PublishReceived) (bool, error) {
				came <- received.Packet
				return true, nil
			},
		},
	})
	connack, err := client.Connect(ctx, &paho.Connect{
		ClientID: "go-5", KeepAlive: 30, CleanStart: true,
		Username: "mqtt_user", UsernameFlag: true,
		Password: []byte("mqtt_password"), PasswordFlag: true,
	})
	if connack != nil && err != nil {
		log.Fatalf("refused with %#x: %v", connack.ReasonCode, err)
	}
	check(err)
	subscription := paho.SubscribeOptions{Topic: "test/go/5", QoS: 1}
	_, err = client.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{subscription}})
	check(err)
	_, err = client.Publish(ctx, &paho.Publish{Topic: "test/go/5", QoS: 1, Payload: []byte("21.5")})
	check(err)
	message := <-came
	fmt.Println(message.Topic, string(message.Payload))
	check(client.Disconnect(&paho.Disconnect{}))
}
