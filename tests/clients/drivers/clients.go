// Clients of Go: CLIENT OPERATION URL FILE; prints one line of JSON (README.md of tests/clients).
package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

var client, operation, url, file = os.Args[1], os.Args[2], os.Args[3], os.Args[4]

func body() io.Reader {
	if operation == "get" || operation == "head" {
		return nil
	}
	opened, err := os.Open(file)
	if err != nil {
		panic(err)
	}
	if client == "bytes" && operation == "put" {
		value, err := io.ReadAll(opened)
		if err != nil {
			panic(err)
		}
		return bytes.NewReader(value)
	}
	return opened
}

func run() (int, string, error) {
	method := map[string]string{"get": "GET", "head": "HEAD"}[operation]
	if method == "" {
		method = "PUT"
	}
	request, err := http.NewRequest(method, url, body())
	if err != nil {
		return 0, "", err
	}
	if information, err := os.Stat(file); err == nil && operation == "put" && client != "bytes" && client != "file" {
		request.ContentLength = information.Size()
	}
	if client == "file-again" && operation == "put" {
		request.GetBody = func() (io.ReadCloser, error) { return os.Open(file) }
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if client == "file-expect" {
		request.Header.Set("Expect", "100-continue")
		transport.ExpectContinueTimeout = 5 * time.Second
	}
	asking := &http.Client{Transport: transport}
	answer, err := asking.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	value, err := io.ReadAll(answer.Body)
	if err == nil && operation == "head" {
		return answer.StatusCode, answer.Header.Get("Content-Length"), nil
	}
	if err == nil && operation == "again" {
		second, err := asking.Get(strings.Replace(url, "/add_key/", "/get_key/", 1))
		if err != nil {
			return 0, "", err
		}
		defer second.Body.Close()
		if value, err = io.ReadAll(second.Body); err != nil {
			return 0, "", err
		}
		return second.StatusCode, strconv.Itoa(answer.StatusCode), os.WriteFile(file, value, 0o600)
	}
	if err == nil && operation == "get" {
		return answer.StatusCode, "", os.WriteFile(file, value, 0o600)
	}
	return answer.StatusCode, string(value), err
}

func main() {
	seen := map[string]any{"status": nil}
	status, said, err := run()
	if status != 0 {
		seen["status"] = status
	}
	seen["said"] = said
	if err != nil {
		seen["said"] = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(seen); err != nil {
		panic(err)
	}
}
