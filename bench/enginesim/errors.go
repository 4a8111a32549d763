package enginesim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
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
		return badRequest(kind.Field, fmt.Sprintf("%s at byte %d: got a JSON %s, expected %s", kind.Field, kind.Offset, kind.Value, kind.Type))
	}
	return badRequest("", "JSON decode error: "+err.Error())
}

func writeError(w http.ResponseWriter, e *apiError) {
	var param any
	if e.Param != "" {
		param = e.Param
	}
	writeJSON(w, e.Status, object{"error": object{"message": e.Message, "type": e.Type, "param": param, "code": e.Status}})
}

// object is a JSON object.
type object map[string]any

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // only values made here come this way
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has left is noticed by the request's context
}
