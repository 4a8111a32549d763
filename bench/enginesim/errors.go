package enginesim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// apiError is an error answer in vLLM's shape.
type apiError struct {
	Status               int
	Type, Message, Param string
}

func badRequest(param, message string) *apiError {
	return &apiError{Status: http.StatusBadRequest, Type: "BadRequestError", Message: message, Param: param}
}

func methodNotAllowed(r *http.Request) *apiError {
	return &apiError{Status: http.StatusMethodNotAllowed, Type: "MethodNotAllowedError", Message: r.Method + " is not allowed on " + r.URL.Path}
}

// badJSON turns a decoding error into a 400 that says where.
func badJSON(err error) *apiError {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return badRequest("", fmt.Sprintf("JSON decode error at byte %d: %v", syntax.Offset, err))
	case errors.As(err, &kind):
		field := strings.TrimPrefix(kind.Field, "sampling.") // the name of the struct that the OpenAI bodies share
		return badRequest(field, fmt.Sprintf("%s at byte %d: got a JSON %s, expected %s", field, kind.Offset, kind.Value, kind.Type))
	}
	return badRequest("", "JSON decode error: "+err.Error())
}

func writeError(w http.ResponseWriter, e *apiError) {
	var param *string
	if e.Param != "" {
		param = &e.Param
	}
	writeJSON(w, e.Status, object{"error": struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    int     `json:"code"`
	}{e.Message, e.Type, param, e.Status}})
}

// object is a JSON object whose fields may come in any order.
type object map[string]any

func writeJSON(w http.ResponseWriter, status int, v any) {
	body := marshal(v)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has left is noticed by the request's context
}
