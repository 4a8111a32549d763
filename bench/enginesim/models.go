package enginesim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
)

func (s *Server) serveModels(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	adapters := slices.Clone(s.adapters)
	s.mu.Unlock()
	list := []any{}
	for _, name := range append([]string{s.opt.Model}, s.opt.Aliases...) {
		list = append(list, s.modelCard(name, nil))
	}
	for _, name := range adapters {
		list = append(list, s.modelCard(name, s.opt.Model))
	}
	writeJSON(w, http.StatusOK, object{"object": "list", "data": list})
}

func (s *Server) modelCard(name string, parent any) object {
	return object{
		"id": name, "object": "model", "created": s.started.Unix(), "owned_by": s.opt.Runtime,
		"root": s.opt.Model, "parent": parent, "max_model_len": s.opt.MaxModelLen,
	}
}

// loadAdapter makes an adapter known, as vLLM does when it may be told at run time.
func (s *Server) loadAdapter(w http.ResponseWriter, r *http.Request) {
	name, failed := s.adapterNamed(w, r)
	if failed != nil {
		writeError(w, failed)
		return
	}
	s.mu.Lock()
	known := slices.Contains(s.adapters, name)
	if !known {
		s.adapters = append(s.adapters, name)
	}
	s.mu.Unlock()
	if known {
		writeError(w, badRequest("lora_name", fmt.Sprintf("The lora adapter '%s' has already been loaded.", name)))
		return
	}
	_, _ = fmt.Fprintf(w, "Success: LoRA adapter '%s' added successfully.", name)
}

func (s *Server) unloadAdapter(w http.ResponseWriter, r *http.Request) {
	name, failed := s.adapterNamed(w, r)
	if failed != nil {
		writeError(w, failed)
		return
	}
	s.mu.Lock()
	i := slices.Index(s.adapters, name)
	if i >= 0 {
		s.adapters = slices.Delete(s.adapters, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 {
		writeError(w, &apiError{Status: http.StatusNotFound, Type: "NotFoundError", Param: "lora_name", Message: fmt.Sprintf("The lora adapter '%s' cannot be found.", name)})
		return
	}
	_, _ = fmt.Fprintf(w, "Success: LoRA adapter '%s' removed successfully.", name)
}

func (s *Server) adapterNamed(w http.ResponseWriter, r *http.Request) (string, *apiError) {
	if r.Method != http.MethodPost {
		return "", methodNotAllowed(r)
	}
	if s.opt.MaxAdapters == 0 {
		return "", badRequest("", "LoRA is off: the engine was started without adapters and without a maximum of them")
	}
	body, failed := s.readBody(w, r)
	if failed != nil {
		return "", failed
	}
	var b struct {
		Name string `json:"lora_name"`
	}
	if err := json.Unmarshal(body, &b); err != nil {
		return "", badJSON(err)
	}
	if b.Name == "" {
		return "", badRequest("lora_name", "lora_name: required")
	}
	return b.Name, nil
}
