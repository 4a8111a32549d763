package enginesim

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

type tool struct {
	Function struct {
		Name       string          `json:"name"`
		Parameters json.RawMessage `json:"parameters"`
	} `json:"function"`
}

// chooseTool lets the model call a function: the one that tool_choice names, any when it is "required", and in "auto"
// the one whose name the last user message contains, or the first when that message speaks of a tool.
func chooseTool(a *ask, b *chatBody) *apiError {
	if len(b.Tools) == 0 {
		return nil
	}
	var tools []tool
	if err := json.Unmarshal(b.Tools, &tools); err != nil {
		return badJSON(err)
	}
	var mode string
	var named tool
	if json.Unmarshal(b.ToolChoice, &mode) != nil {
		mode = "auto"
		if json.Unmarshal(b.ToolChoice, &named) == nil && named.Function.Name != "" {
			mode = "named"
		}
	}
	chosen := -1
	switch mode {
	case "none":
	case "named":
		chosen = slices.IndexFunc(tools, func(t tool) bool { return t.Function.Name == named.Function.Name })
		if chosen < 0 {
			return badRequest("tool_choice", "tool_choice: no tool is named "+named.Function.Name)
		}
	case "required":
		chosen = max(0, askedFor(tools, b.Messages))
	default:
		chosen = askedFor(tools, b.Messages)
	}
	if chosen < 0 || chosen >= len(tools) {
		return nil
	}
	a.call = &toolCall{name: tools[chosen].Function.Name}
	a.arguments = sample(tools[chosen].Function.Parameters)
	return nil
}

func askedFor(tools []tool, messages []message) int {
	last := messages[len(messages)-1]
	if last.Role != "user" {
		return -1
	}
	text, err := last.text(nil)
	if err != nil {
		return -1 // rendering has checked it
	}
	said := string(text)
	for i, t := range tools {
		if t.Function.Name != "" && strings.Contains(said, t.Function.Name) {
			return i
		}
	}
	if strings.Contains(strings.ToLower(said), "tool") {
		return 0
	}
	return -1
}

// sample makes a JSON value that a schema allows, as far as type, properties, required and enum tell. It is ASCII, so
// that it can be cut anywhere.
func sample(schema json.RawMessage) []byte {
	var ascii []byte
	for _, r := range string(marshal(sampleValue(schema, 0))) {
		if r < utf8.RuneSelf {
			ascii = append(ascii, byte(r))
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			ascii = fmt.Appendf(ascii, `\u%04x`, unit)
		}
	}
	return ascii
}

func sampleValue(raw json.RawMessage, depth int) any {
	var schema struct {
		Type       any                        `json:"type"`
		Enum       []any                      `json:"enum"`
		Properties map[string]json.RawMessage `json:"properties"`
		Required   []string                   `json:"required"`
		Items      json.RawMessage            `json:"items"`
	}
	if json.Unmarshal(raw, &schema) != nil || depth > 16 {
		return object{}
	}
	if len(schema.Enum) > 0 {
		return schema.Enum[0]
	}
	if kinds, ok := schema.Type.([]any); ok && len(kinds) > 0 {
		schema.Type = kinds[0]
	}
	switch schema.Type {
	case "string":
		return "Lisbon"
	case "integer":
		return 3
	case "number":
		return 1.5
	case "boolean":
		return true
	case "null":
		return nil
	case "array":
		return []any{sampleValue(schema.Items, depth+1)}
	}
	if len(schema.Required) == 0 {
		schema.Required = slices.Sorted(maps.Keys(schema.Properties))
	}
	o := object{}
	for _, name := range schema.Required {
		o[name] = sampleValue(schema.Properties[name], depth+1)
	}
	return o
}
