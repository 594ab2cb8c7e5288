// The client of oapi-codegen.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"time"

	"example.com/triarch-client/triarch"
)

const kind = "compat-go"

func check(condition bool, what string, values ...any) {
	if !condition {
		fmt.Fprintln(os.Stderr, append([]any{what + ":"}, values...)...)
		os.Exit(1)
	}
}

func must[T any](value T, err error) T {
	check(err == nil, "no answer", err)
	return value
}

func pointer[T any](value T) *T { return &value }

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := must(triarch.NewClientWithResponses(os.Getenv("TRIARCH_MASTER")))

	spec := triarch.TaskSpec{Kind: kind, Payload: map[string]any{"number": 42}, Priority: pointer[uint8](3), Tags: &[]string{"compat"}}
	job := triarch.SubmitJob{IdempotencyKey: pointer(fmt.Sprint("go-", os.Getpid())), Tasks: []triarch.TaskSpec{spec}}
	submitted := must(client.JobsSubmitWithResponse(ctx, nil, job))
	check(submitted.JSON201 != nil, "not submitted", string(submitted.Body))
	check(!submitted.JSON201.Duplicate, "a duplicate")

	about := triarch.Register{
		Name:      kind,
		Kinds:     &[]string{kind},
		Slots:     pointer[uint32](1),
		Labels:    &map[string]string{"zone": "eu"},
		Resources: &map[string]uint64{"mem_mb": 512},
	}
	registered := must(client.WorkersRegisterWithResponse(ctx, nil, about))
	check(registered.JSON201 != nil, "not registered", string(registered.Body))
	worker := registered.JSON201.Id
	secret := func(_ context.Context, request *http.Request) error {
		if registered.JSON201.Secret != nil {
			request.Header.Set("triarch-worker-secret", *registered.JSON201.Secret)
		}
		return nil
	}

	poll := triarch.Poll{Max: pointer[uint32](1), WaitMs: pointer[uint64](5000)}
	polled := must(client.WorkersPollWithResponse(ctx, worker, nil, poll, secret))
	check(polled.JSON200 != nil && len(polled.JSON200.Tasks) == 1, "no task", string(polled.Body))
	lease := polled.JSON200.Tasks[0]
	check(lease.Job == submitted.JSON201.Id && lease.Attempt == 1, "another task", lease)
	check(reflect.DeepEqual(lease.Payload, map[string]any{"number": 42.0}), "another payload", lease.Payload)
	check(!polled.JSON200.Drain, "drained")

	running := []triarch.RunningTask{{Task: lease.Id, Token: lease.Token, Progress: pointer(0.5)}}
	beat := must(client.WorkersHeartbeatWithResponse(ctx, worker, nil, triarch.Heartbeat{Running: &running}, secret))
	check(beat.JSON200 != nil && len(beat.JSON200.Lost) == 0, "the lease is lost", string(beat.Body))

	result := triarch.TaskResult{Task: lease.Id, Token: lease.Token, Status: triarch.ReportStatusSucceeded, Result: map[string]any{"answer": 42}}
	reported := must(client.WorkersReportWithResponse(ctx, worker, nil, triarch.Report{Results: []triarch.TaskResult{result}}, secret))
	check(reported.JSON200 != nil && reported.JSON200.Results[0].Accepted, "not accepted", string(reported.Body))

	ended := must(client.JobsShowWithResponse(ctx, submitted.JSON201.Id, &triarch.JobsShowParams{WaitMs: pointer[uint64](5000)}))
	check(ended.JSON200 != nil && ended.JSON200.State == triarch.JobStateSucceeded, "the job did not succeed", string(ended.Body))
	check(ended.JSON200.Counts["succeeded"] == 1, "another count", ended.JSON200.Counts)
	shown := must(client.TasksShowWithResponse(ctx, lease.Id, nil))
	check(shown.JSON200 != nil, "no task", string(shown.Body))
	check(reflect.DeepEqual(shown.JSON200.Result, map[string]any{"answer": 42.0}), "another result", shown.JSON200.Result)
	list := triarch.TasksListParams{Kind: pointer(kind), State: pointer(triarch.TaskStateSucceeded)}
	listed := must(client.TasksListWithResponse(ctx, &list))
	check(listed.JSON200 != nil && len(listed.JSON200.Tasks) == 1, "the task is not in the list", string(listed.Body))

	// Problem documents have one type, whatever the operation.
	missing := must(client.TasksShowWithResponse(ctx, "t999999-0", nil))
	check(missing.ApplicationproblemJSON404 != nil, "no problem", string(missing.Body))
	check(missing.ApplicationproblemJSON404.Code == triarch.NotFound, "another problem", string(missing.Body))
	job.Tasks[0].Payload = 1
	conflict := must(client.JobsSubmitWithResponse(ctx, nil, job))
	check(conflict.ApplicationproblemJSON409 != nil, "no problem", string(conflict.Body))
	problem := conflict.ApplicationproblemJSON409
	check(problem.Code == triarch.Conflict && problem.Status == 409 && problem.Detail != "", "another problem", string(conflict.Body))

	// Events are a union with a discriminator.
	var event triarch.Event
	check(event.UnmarshalJSON([]byte(`{"id":"4.0","at":"2026-11-23T10:00:00Z","type":"job_submitted","job":"j4-0","tasks":2}`)) == nil, "no event")
	value := must(event.ValueByDiscriminator())
	first, known := value.(triarch.JobSubmittedEvent)
	check(known && first.Tasks == 2, "another event", value)

	left := must(client.WorkersLeaveWithResponse(ctx, worker, nil, secret))
	check(left.JSON200 != nil && left.JSON200.Returned == 0, "the worker did not leave", string(left.Body))
	fmt.Println("ok")
}
