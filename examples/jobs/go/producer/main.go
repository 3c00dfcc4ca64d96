// Producer submits an order as a job and prints the job's id.
//
//	go mod tidy
//	NATS_URL=nats://127.0.0.1:4222 NATS_NKEY=<data>/nkeys/producer.nk \
//		go run ./producer '{"items":[{"price":1.5,"count":2}]}'
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	if err := submit([]byte(os.Args[1])); err != nil {
		log.Fatal(err)
	}
}

func submit(order []byte) error {
	key, err := nats.NkeyOptionFromSeed(os.Getenv("NATS_NKEY"))
	if err != nil {
		return err
	}
	prefix := cmp.Or(os.Getenv("NATS_INBOX_PREFIX"), "_INBOX.producer")
	connection, err := nats.Connect(os.Getenv("NATS_URL"), key, nats.CustomInboxPrefix(prefix))
	if err != nil {
		return err
	}
	defer connection.Close()
	stream, err := jetstream.New(connection)
	if err != nil {
		return err
	}

	// The job's id. Submitted again with the same one within two minutes, it is the same job: so what timed out may
	// simply be sent again.
	id := rand.Text()
	job := nats.NewMsg("jobs.shop.order")
	job.Data = order
	job.Header.Set("Job-Max-Attempts", "5")

	// Returns when the broker has stored it, or with an error when it has not.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := stream.PublishMsg(ctx, job, jetstream.WithMsgID("shop.order:"+id)); err != nil {
		return err
	}
	fmt.Println(id)
	return nil
}
