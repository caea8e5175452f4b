// Command connect3 publishes and receives one message in MQTT 3.1.1. The argument is host and port.
package main

import (
	"fmt"
	"log"
	"os"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// check waits for an answer of the broker.
func check(token mqtt.Token) {
	if !token.WaitTimeout(10 * time.Second) {
		log.Fatal("no answer")
	}
	if err := token.Error(); err != nil {
		log.Fatal(err)
	}
}

func main() {
	came := make(chan mqtt.Message, 1)
	client := mqtt.NewClient(mqtt.NewClientOptions().
		AddBroker("tcp://" + os.Args[1]).
		SetClientID("go-3").
		SetUsername("mqtt_user").
		SetPassword("mqtt_password"))
	check(client.Connect())
	check(client.Subscribe("test/go/3", 1, func(_ mqtt.Client, message mqtt.Message) { came <- message }))
	check(client.Publish("test/go/3", 1, false, "21.5"))
	message := <-came
	fmt.Println(message.Topic(), string(message.Payload()))
	client.Disconnect(250)
}
