// Package request reads the bodies of inference requests: model, limits, and the text whose prefix identifies the prompt. It
// also reads the usage that answers report, and replaces the model's name in a body.
//
// It promises to change no byte but the model's name, to hold views of the body instead of copies, and to say where
// malformed JSON is wrong. A body is scanned once, without recursion and without a document tree, at memory speed;
// nothing that is allocated grows with a body.
package request
