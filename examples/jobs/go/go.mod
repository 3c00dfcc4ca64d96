module trunkline.example/jobs

go 1.24

require github.com/nats-io/nats.go v1.45.0
