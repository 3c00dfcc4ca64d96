// Worker works off orders: it answers each with its total, until Ctrl-C.
//
//	go mod tidy
//	NATS_URL=nats://127.0.0.1:4222 NATS_NKEY=<data>/nkeys/worker.nk go run ./worker
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log"
	"os"
	"os/signal"

	"github.com/nats-io/nats.go"
)

type order struct {
	Items []struct {
		Price float64 `json:"price"`
		Count float64 `json:"count"`
	} `json:"items"`
}

type result struct {
	Total float64 `json:"total"`
}

// errUseless says that another attempt is of no use.
var errUseless = errors.New("an order without items")

func main() {
	if err := serve(); err != nil {
		log.Fatal(err)
	}
}

func serve() error {
	key, err := nats.NkeyOptionFromSeed(os.Getenv("NATS_NKEY"))
	if err != nil {
		return err
	}
	prefix := cmp.Or(os.Getenv("NATS_INBOX_PREFIX"), "_INBOX.worker")
	connection, err := nats.Connect(os.Getenv("NATS_URL"), key, nats.CustomInboxPrefix(prefix))
	if err != nil {
		return err
	}
	defer connection.Close()

	// In a queue group, each job goes to one of the workers.
	_, err = connection.QueueSubscribe("work.shop.order", "workers", func(work *nats.Msg) {
		if err := answer(work); err != nil {
			log.Println(err)
		}
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	<-ctx.Done()
	return connection.Drain()
}

func answer(work *nats.Msg) error {
	// What takes long says so every ten seconds, and may tell how far it has come.
	running := nats.NewMsg(work.Reply)
	running.Header.Set("Job-Status", "running")
	running.Header.Set("Job-Progress", `{"percent":50}`)
	if err := work.RespondMsg(running); err != nil {
		return err
	}

	done, err := total(work.Data)
	if err != nil {
		failed := nats.NewMsg(work.Reply)
		failed.Header.Set("Nats-Service-Error-Code", "500")
		failed.Header.Set("Nats-Service-Error", err.Error())
		if errors.Is(err, errUseless) {
			failed.Header.Set("Job-Permanent", "true")
		}
		return work.RespondMsg(failed)
	}
	// A job may come twice: key what must happen once by this id.
	log.Println(work.Header.Get("Job-Id"), done.Total)
	body, err := json.Marshal(done)
	if err != nil {
		return err
	}
	return work.Respond(body)
}

func total(arguments []byte) (result, error) {
	var given order
	if err := json.Unmarshal(arguments, &given); err != nil {
		return result{}, err
	}
	if len(given.Items) == 0 {
		return result{}, errUseless
	}
	var sum result
	for _, item := range given.Items {
		sum.Total += item.Price * item.Count
	}
	return sum, nil
}
