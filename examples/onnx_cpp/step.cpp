// Plays an exported graph without Python: observations of CartPole-v1 on standard input, an action a line on output.
//
//     g++ -std=c++17 -O2 step.cpp -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime -o step
//     ./step cartpole.onnx < observations.txt
//
// All inputs are zeros at first; after each step every output `next_NAME` is the input NAME of the next one.
#include <onnxruntime_cxx_api.h>

#include <chrono>
#include <cstring>
#include <iostream>
#include <map>

int main(int, char** arguments) try {
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    Ort::Session session(env, arguments[1], options);
    Ort::AllocatorWithDefaultOptions allocator;
    std::vector<std::string> inputs, outputs;
    std::vector<const char*> fed_names, result_names;
    std::map<std::string, Ort::Value> values;  // by name of the input
    for (size_t i = 0; i < session.GetInputCount(); ++i) {
        inputs.push_back(session.GetInputNameAllocated(i, allocator).get());
        auto type = session.GetInputTypeInfo(i);
        auto tensor = type.GetTensorTypeAndShapeInfo();
        auto shape = tensor.GetShape();
        auto kind = tensor.GetElementType();
        auto value = Ort::Value::CreateTensor(allocator, shape.data(), shape.size(), kind);
        size_t size = kind == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL ? 1 : kind == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 ? 8 : 4;
        std::memset(value.GetTensorMutableRawData(), 0, size * tensor.GetElementCount());
        values.emplace(inputs.back(), std::move(value));
    }
    for (size_t i = 0; i < session.GetOutputCount(); ++i)
        outputs.push_back(session.GetOutputNameAllocated(i, allocator).get());
    for (auto& name : inputs) fed_names.push_back(name.c_str());
    for (auto& name : outputs) result_names.push_back(name.c_str());
    double milliseconds = 0;
    int steps = 0;
    for (float x[4]; std::cin >> x[0] >> x[1] >> x[2] >> x[3]; ++steps) {
        std::memcpy(values.at("observation").GetTensorMutableRawData(), x, sizeof x);
        *values.at("start").GetTensorMutableData<bool>() = steps == 0;  // one episode
        std::vector<Ort::Value> fed;
        for (auto& name : inputs) fed.push_back(std::move(values.at(name)));
        auto began = std::chrono::steady_clock::now();
        auto results = session.Run({}, fed_names.data(), fed.data(), fed.size(), result_names.data(), outputs.size());
        milliseconds += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count();
        for (size_t i = 0; i < inputs.size(); ++i) values.at(inputs[i]) = std::move(fed[i]);
        for (size_t i = 0; i < outputs.size(); ++i) {
            if (outputs[i] == "action") std::cout << *results[i].GetTensorData<int64_t>() << '\n';
            if (outputs[i].rfind("next_", 0) == 0) values.at(outputs[i].substr(5)) = std::move(results[i]);
        }
    }
    std::cerr << steps << " steps, " << milliseconds / steps << " ms each\n";
} catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
}
